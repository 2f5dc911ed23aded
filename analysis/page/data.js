// What report.py put into the page: gzip of JSON, columns of numbers or of words and their places.
// Everything below shares one module scope; the files stand in the order of report.py's PARTS.

async function unpack(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).json();
}

function column(packed) {
  return packed.words ? packed.at.map((i) => packed.words[i]) : packed.values;
}

// {count, rows: {name: array}, tasks: [{name, us: array, floor: array}], panels, …}
async function loadData() {
  const data = await unpack(document.getElementById('data').textContent);
  const rows = {};
  for (const [name, packed] of Object.entries(data.columns)) rows[name] = column(packed);
  const tasks = data.tasks.map((task) => (
    {name: task.name, us: column(task.us), floor: column(task.floor)}));
  // A row's name in links: its key, and a number where several rows share it.
  const seen = new Map();
  rows.id = rows.key.map((key) => {
    const times = (seen.get(key) || 0) + 1;
    seen.set(key, times);
    return times === 1 ? key : `${key}.${times}`;
  });
  const byId = new Map(rows.id.map((id, i) => [id, i]));
  return {...data, rows, tasks, byId, count: rows.key.length};
}
