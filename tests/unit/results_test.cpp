// A results folder under everything that happens to one: resumed, torn, full, locked, of somebody
// else.
#include "bench/results.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/unit/lines.h"

namespace helix {
namespace {

using testing::HasSubstr;

Environment place(const std::string& commit = "aaaa", const std::string& cpu = "x86") {
  return {.hash = commit + cpu,
          .facts = {{"machine", {{"host", "h"}, {"cpu", cpu}, {"cores", 2}}},
                    {"build", {{"commit", commit}, {"dirty", false}}}},
          .launch = {{"started", "now"}}};
}

const Json sweep = {{"name", "s"}, {"batch", {1, 2}}};

class Results : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    run = folder + "/deep/run";
    file = run + "/results.jsonl";
  }
  std::string refusal(const Json& of, const Environment& now, Resume resume) const {
    return error_of<InputError>([&] { ResultsFolder(run, of, now, resume); });
  }
  // A run that writes these lines, from its start to its end.
  std::vector<std::string> write(const std::vector<Json>& lines, Resume resume = Resume::no) const {
    ResultsFolder results(run, sweep, place(), resume);
    for (const Json& line : lines) results.append(line);
    results.close();
    return results.notes();
  }
  std::vector<std::string> keys() const {
    std::vector<std::string> found;
    read_results(run, [&](const Node& line) {
      found.push_back(line["key"].text() + " " + line["status"].text());
    });
    return found;
  }
  std::string run, file;
};

using Keys = std::vector<std::string>;

Identity identity(const std::string& key, int64_t repeat = 1) {
  return {.key = key,
          .executor = "cpu",
          .exchange = "mpi",
          .machine = "",
          .shard = "",
          .repeat = repeat};
}

TEST_F(Results, AMissingFolderIsMadeAndALineReadAgain) {
  EXPECT_TRUE(write({ok({.key = "a"}), ok({.key = "b"})}).empty());
  EXPECT_EQ(keys(), (Keys{"a ok", "b ok"}));
  EXPECT_EQ(read_json(run + "/sweep.json").json(), sweep);
  EXPECT_EQ(read_json(run + "/environment.json")["aaaax86"]["launches"].items().size(), 1U);
  EXPECT_FALSE(std::filesystem::exists(run + "/lock"));
}

TEST_F(Results, UnknownFieldsAreKept) {
  Json line = ok({});
  line["new"] = {{"deep", 1}};
  line["schema"] = "helix-bench/1.7";
  write({line});
  read_results(file, [&](const Node& read) { EXPECT_EQ(read.json(), line); });
}

TEST_F(Results, LinesThatAreThereNeedResume) {
  write({ok({.key = "a"})});
  const std::string before = read_text(file);
  EXPECT_THAT(refusal(sweep, place(), Resume::no), HasSubstr("--resume"));
  EXPECT_EQ(read_text(file), before);
  EXPECT_FALSE(std::filesystem::exists(run + "/lock"));
  EXPECT_TRUE(write({ok({.key = "b"})}, Resume::yes).empty());
  EXPECT_EQ(keys(), (Keys{"a ok", "b ok"}));
}

TEST_F(Results, AnEmptyFileNeedsNoResumeAndResumeNeedsNoFile) {
  write({});
  write({});
  std::filesystem::remove_all(run);
  write({ok({})}, Resume::yes);
  EXPECT_EQ(keys().size(), 1U);
}

TEST_F(Results, AnotherSweepIsRefusedAtTheFirstDifference) {
  write({ok({})});
  Json other = sweep;
  other["batch"] = {1, 3};
  EXPECT_THAT(refusal(other, place(), Resume::mixed),
              HasSubstr("sweep.json: /batch/1: another sweep"));
  const Json reordered = {{"batch", {1.0, 2}}, {"name", "s"}};
  EXPECT_EQ(refusal(reordered, place(), Resume::yes), "");
  std::filesystem::remove(run + "/sweep.json");
  EXPECT_THAT(refusal(sweep, place(), Resume::yes), HasSubstr("sweep.json is missing"));
}

TEST_F(Results, AnotherCommitOrHardwareNeedsMixed) {
  write({ok({})});
  EXPECT_THAT(refusal(sweep, place("bbbb"), Resume::yes), HasSubstr("commit (aaaa, now bbbb)"));
  EXPECT_THAT(refusal(sweep, place("aaaa", "arm"), Resume::yes), HasSubstr("hardware (cpu"));
  EXPECT_EQ(refusal(sweep, place("bbbb", "arm"), Resume::mixed), "");
  EXPECT_EQ(read_json(run + "/environment.json").json().size(), 2U);
}

TEST_F(Results, DoneIsAnOkLineOfTheSameIdentity) {
  write({ok({.key = "a"}), ok({.key = "a", .repeat = 2}), not_ok("f", "failed", "x"),
         not_ok("s", "skipped", "x"), ok({.key = "wrong", .error = 0.5}),
         ok({.key = "nan", .error = nullptr}), ok({.key = "plain", .verified = false})});
  const ResultsFolder results(run, sweep, place(), Resume::yes);
  EXPECT_TRUE(results.done(identity("a")));
  EXPECT_TRUE(results.done(identity("a", 2)));
  EXPECT_TRUE(results.done(identity("plain")));
  for (const char* key : {"f", "s", "wrong", "nan", "b"}) EXPECT_FALSE(results.done(identity(key)));
  EXPECT_FALSE(results.done(identity("a", 3)));
}

TEST_F(Results, APointIsOnceInTheFileAfterAResume) {
  write({not_ok("f", "failed", "x"), ok({.key = "a"}), not_ok("s", "skipped", "x")});
  write({ok({.key = "f"}), not_ok("s", "skipped", "x")}, Resume::yes);
  EXPECT_EQ(keys(), (Keys{"a ok", "s skipped", "f ok"}));
  write({not_ok("s", "skipped", "another reason")}, Resume::yes);
  EXPECT_EQ(keys(), (Keys{"a ok", "f ok", "s skipped"}));
}

TEST_F(Results, ARunThatDiesBeforeItsEndLeavesTheReplacedLineToTheNext) {
  write({not_ok("f", "failed", "x")});
  {
    ResultsFolder results(run, sweep, place(), Resume::yes);
    results.append(ok({.key = "f"}));
  }
  EXPECT_EQ(keys(), (Keys{"f failed", "f ok"}));
  write({}, Resume::yes);
  EXPECT_EQ(keys(), (Keys{"f ok"}));
}

TEST_F(Results, ATornLineIsNoticedCutOffAndRedone) {
  const std::string whole = ok({.key = "a"}).dump() + "\n";
  const std::string line = ok({.key = "b"}).dump();
  const std::string zeros(100, '\0');
  for (const std::string& torn : {line.substr(0, 1), line.substr(0, 99), line, zeros, zeros + "\n",
                                  std::string("{\n"), std::string("\n"), std::string("\xff")}) {
    std::filesystem::remove_all(run);
    write({ok({.key = "a"})});
    write_text(file, whole + torn);
    Keys read;
    const Keys notes = read_results(file, [&](const Node& n) { read.push_back(n["key"].text()); });
    EXPECT_EQ(read, torn == line ? (Keys{"a", "b"}) : Keys{"a"});
    EXPECT_EQ(notes.size(), torn == line ? 0U : 1U);
    ResultsFolder results(run, sweep, place(), Resume::yes);
    ASSERT_EQ(results.notes().size(), 1U);
    EXPECT_THAT(results.notes()[0], HasSubstr("cut off"));
    EXPECT_TRUE(results.done(identity("a")));
    EXPECT_FALSE(results.done(identity("b")));
    EXPECT_EQ(read_text(file), whole);
    results.append(ok({.key = "b"}));
    results.close();
    EXPECT_EQ(keys(), (Keys{"a ok", "b ok"}));
  }
}

TEST_F(Results, AFileThatIsNotOursIsRefusedWithTheLine) {
  write({ok({})});
  const std::string line = read_text(file);
  const auto said = [&](const std::string& text) {
    write_text(file, text);
    std::string error = error_of<InputError>([&] { read_results(file, [](const Node&) {}); });
    EXPECT_EQ(refusal(sweep, place(), Resume::yes), error);
    EXPECT_EQ(read_text(file), text);
    return error;
  };
  EXPECT_THAT(said(line + "{]\n" + line), HasSubstr("results.jsonl:2: line 1, column 2"));
  EXPECT_THAT(said(line + "{\"schema\": \"helix-bench/2.0\"}\n"),
              HasSubstr("results.jsonl:2: /schema: \"helix-bench/2.0\" is newer"));
  for (const char* schema : {"", "helix-bench/", "helix-bench/1", "helix-bench/x.0",
                             "helix-bench/sweep/1", "helix-bench/0.9", "helix-bench/99999999999.0"})
    EXPECT_THAT(said("{\"schema\": \"" + std::string(schema) + "\"}\n"),
                HasSubstr("no result line"));
  EXPECT_THAT(said("[1]\n"), HasSubstr("results.jsonl:1"));
  write_text(file, "{\"schema\": \"helix-bench/1.0\", \"key\": 7}\n");
  EXPECT_THAT(refusal(sweep, place(), Resume::yes), HasSubstr("results.jsonl:1: /key: found 7"));
}

TEST_F(Results, UnreadableFilesAreRefused) {
  const auto said = [](const std::string& path) {
    return error_of<InputError>([&] { read_results(path, [](const Node&) {}); });
  };
  EXPECT_THAT(said(folder + "/none"), HasSubstr("No such file"));
  EXPECT_THAT(said(folder), HasSubstr("results.jsonl: cannot be read"));
  std::filesystem::create_directories(folder + "/results.jsonl");
  EXPECT_THAT(said(folder), HasSubstr("cannot be read"));
  EXPECT_THAT(said(std::string("a\0b", 3)), HasSubstr("cannot be read"));
}

TEST_F(Results, HostileTextStaysInItsLine) {
  const std::string hostile = "a\nb\r\x1b[31m \"}{\\ \xff\xfe \xe2\x80\xae \x01";
  write({not_ok("k\n\"", "failed", hostile), ok({.key = "a"})});
  EXPECT_EQ(std::ranges::count(read_text(file), '\n'), 2);
  EXPECT_EQ(keys(), (Keys{"k\n\" failed", "a ok"}));
}

TEST_F(Results, AFolderThatCannotBeWrittenIsBadInput) {
  write_text(folder + "/file", "");
  run = folder + "/file/run";
  EXPECT_THAT(refusal(sweep, place(), Resume::no), HasSubstr("cannot be written: Not a directory"));
  run = folder + "/file";
  EXPECT_THAT(refusal(sweep, place(), Resume::no), HasSubstr("cannot be written"));
  run = "/proc/helix";
  EXPECT_THAT(refusal(sweep, place(), Resume::no), HasSubstr("/proc/helix: cannot be written"));
  if (getuid() == 0) return;  // may write anywhere
  run = folder + "/locked/run";
  std::filesystem::create_directory(folder + "/locked");
  std::filesystem::permissions(folder + "/locked", std::filesystem::perms::owner_read);
  EXPECT_THAT(refusal(sweep, place(), Resume::no), HasSubstr("Permission denied"));
}

// Appends lines until one does not fit; how many did.
int64_t append_until_full(ResultsFolder& results, std::string& reason) {
  for (int64_t written = 0;; ++written) {
    const Json line = ok({.key = "k" + std::to_string(written)});
    reason = error_of<RunError>([&] { results.append(line); });
    if (!reason.empty() || written > 10000) return written;
  }
}

// The limit of a file's size, as a full disk makes it: half a line fits.
void limit_file(rlim_t bytes) {
  signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = bytes;
  setrlimit(RLIMIT_FSIZE, &limit);
}

TEST_F(Results, WhenTheDiskIsFullFinishedLinesAreWhole) {
  for (const size_t fits : {0U, 9U}) {
    std::filesystem::remove_all(run);
    std::string reason;
    {
      ResultsFolder results(run, sweep, place(), Resume::no);
      const size_t bytes = ok({.key = "k0"}).dump().size() + 1;
      limit_file(bytes * fits + bytes / 2);
      EXPECT_EQ(append_until_full(results, reason), fits);
      EXPECT_THAT(reason, HasSubstr(file + ": line " + std::to_string(fits + 1)));
      EXPECT_THAT(reason, HasSubstr("too large; the lines before it are whole"));
      limit_file(RLIM_INFINITY);
      EXPECT_FALSE(results.done(identity("k" + std::to_string(fits))));
    }
    EXPECT_EQ(keys().size(), fits);
    EXPECT_TRUE(write({ok({.key = "late"})}, Resume::yes).empty());
    EXPECT_EQ(keys().size(), fits + 1);
  }
}

TEST_F(Results, AFullFileSystemEndsTheRunWithItsReason) {
  if (unshare(CLONE_NEWNS) != 0 || mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=32k") != 0)
    GTEST_SKIP() << "may not mount a small file system here";
  std::string reason;
  {
    ResultsFolder results(run, sweep, place(), Resume::no);
    const int64_t written = append_until_full(results, reason);
    EXPECT_GT(written, 0);
    EXPECT_THAT(reason, HasSubstr("No space left on device"));
    EXPECT_EQ(static_cast<int64_t>(keys().size()), written);
  }
  // With no room at all, not even the folder's first files.
  std::filesystem::remove_all(run);
  {
    std::ofstream fill(folder + "/fill", std::ios::binary);
    while (fill.write(std::string(4096, 'x').data(), 4096).flush()) {
    }
  }
  EXPECT_THAT(error_of<RunError>([&] { ResultsFolder(run, sweep, place(), Resume::no); }),
              HasSubstr("No space left on device"));
  EXPECT_FALSE(std::filesystem::exists(run + "/lock"));
  umount(folder.c_str());
}

// Another process that runs `call` and then stays until it is killed.
class Neighbour {
 public:
  explicit Neighbour(const std::function<void()>& call) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
      call();
      EXPECT_EQ(::write(ready[1], "r", 1), 1);
      while (true) pause();
    }
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
  }
  void end() const {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  pid_t pid = 0;
};

TEST_F(Results, ALivingRunLocksTheFolderAndADeadOneDoesNot) {
  const Neighbour neighbour([&] {
    auto* results = new ResultsFolder(run, sweep, place(), Resume::no);
    results->append(ok({.key = "a"}));
  });
  const std::string error = refusal(sweep, place(), Resume::yes);
  EXPECT_THAT(error, HasSubstr("lock: locked by process " + std::to_string(neighbour.pid)));
  EXPECT_EQ(keys(), (Keys{"a ok"}));
  neighbour.end();
  ResultsFolder results(run, sweep, place(), Resume::yes);
  ASSERT_EQ(results.notes().size(), 1U);
  EXPECT_THAT(results.notes()[0], HasSubstr("which is gone"));
  EXPECT_TRUE(results.done(identity("a")));
}

TEST_F(Results, ALockOfAnotherHostIsRefusedUnlessSlurmHasQueuedTheJobAgain) {
  std::filesystem::create_directories(run);
  const std::string lock =
      R"({"host": "elsewhere", "pid": 1, "job": "77", "restart": "", "since": "then"})";
  write_text(run + "/lock", lock);
  EXPECT_THAT(
      refusal(sweep, place(), Resume::yes),
      HasSubstr("process 1 on elsewhere (Slurm job 77) since then; if that run is gone: rm " + run +
                "/lock"));
  EXPECT_EQ(read_text(run + "/lock"), lock);
  setenv("SLURM_JOB_ID", "77", 1);
  setenv("SLURM_RESTART_COUNT", "1", 1);
  EXPECT_EQ(refusal(sweep, place(), Resume::yes), "");
  unsetenv("SLURM_JOB_ID");
  unsetenv("SLURM_RESTART_COUNT");
}

TEST_F(Results, ALockWithoutSenseIsOfNobody) {
  for (const char* text : {"", "{", "[]", "null", "{\"host\": 3}", "\xff"}) {
    std::filesystem::create_directories(run);
    write_text(run + "/lock", text);
    EXPECT_EQ(refusal(sweep, place(), Resume::yes), "");
  }
}

}  // namespace
}  // namespace helix
