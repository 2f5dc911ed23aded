import pytest

import browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    opened = browser.start(downloads)
    opened.downloads = downloads
    yield opened
    opened.quit()
