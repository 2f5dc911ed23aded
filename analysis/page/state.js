// What is looked at. It lives in the part of the address behind #, so that a link shows the same.

const defaults = {
  model: '', context: '', precision: '', layers: [], ranks: [], hop: 'any', hide: [],
  x: 'user', xscale: 'log', yscale: 'log', relative: 'no', all: true, labels: true,
  slo: '', pins: [], metric: 'user', sort: 'y', down: true, find: '', page: 0, theme: 'auto',
};
const state = {...defaults};

const choices = {
  x: {user: 'tokens/s/user', user_p90: 'tokens/s/user by p90 TTL', ttl: 'TTL (ms)'},
  xscale: {log: 'logarithmic', linear: 'linear'},
  yscale: {log: 'logarithmic', linear: 'linear'},
  relative: {no: 'absolute', yes: '× best of Baseline'},
  metric: {user: 'tokens/s/user', chip: 'tokens/s/GPU'},
  hop: {any: 'on and off', off: 'off', on: 'on'},
  theme: {auto: 'auto', light: 'light', dark: 'dark'},
};

function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const [name, initial] of Object.entries(defaults)) {
    const text = wanted.get(name);
    if (Array.isArray(initial)) state[name] = wanted.getAll(name);
    else if (text === null) state[name] = initial;
    else if (typeof initial === 'boolean') state[name] = text === '1';
    else if (typeof initial === 'number') state[name] = Math.max(0, parseInt(text, 10) || 0);
    else state[name] = choices[name] && !Object.hasOwn(choices[name], text) ? initial : text;
  }
}

function writeHash() {
  const words = new URLSearchParams();
  for (const [name, initial] of Object.entries(defaults)) {
    const value = state[name];
    if (Array.isArray(initial)) value.forEach((word) => words.append(name, word));
    else if (value !== initial) words.set(name, typeof value === 'boolean' ? +value : value);
  }
  const hash = words.toString();
  if (hash !== location.hash.slice(1))
    history.replaceState(null, '', hash ? `#${hash}` : location.pathname + location.search);
}
