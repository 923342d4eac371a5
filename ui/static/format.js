// Numbers, times and states as they are shown.

export function count(n, one, many = one + 's') {
  return `${n} ${n === 1 ? one : many}`;
}

export function rate(n) {
  if (n === undefined) return '–';
  if (n === 0) return '0';
  if (n < 10) return n.toFixed(1);
  if (n < 10000) return Math.round(n).toString();
  return (n / 1000).toFixed(n < 100000 ? 1 : 0) + 'k';
}

export function bytes(n) {
  if (!n) return '–';
  let unit = 0;
  for (; n >= 1000 && unit < 4; unit++) n /= 1000;
  return (n < 10 && unit ? n.toFixed(1) : Math.round(n)) + [' B', ' kB', ' MB', ' GB', ' TB'][unit];
}

// millis is a duration as Go writes it, "1m2.5s" or "800µs", in milliseconds.
export function millis(text) {
  const unit = {h: 3600e3, m: 60e3, s: 1e3, ms: 1, 'µs': 1e-3, ns: 1e-6};
  let sum = 0;
  for (const [, n, u] of (text ?? '').matchAll(/([\d.]+)(h|ms|m|s|µs|ns)/g)) sum += n * unit[u];
  return sum;
}

// ms is a duration as it is shown.
export function ms(text) {
  const n = millis(text);
  return n ? n.toFixed(n < 10 ? 1 : 0) + ' ms' : '–';
}

// known says whether a time is one: Go's zero time is none.
export const known = time => !!Date.parse(time) && !time.startsWith('0001');

// age is the time since, in its largest unit.
export function age(time, now = Date.now()) {
  if (!known(time)) return '–';
  const s = Math.max(0, (now - Date.parse(time)) / 1000);
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['m', 60]]) {
    if (s >= 2 * length) return Math.floor(s / length) + unit;
  }
  return Math.floor(s) + 's';
}

export const when = time => new Date(time).toLocaleString();

// The look of states: what says it in a word says it in a sign and a colour as well.
const signs = {ok: '●', warn: '▲', bad: '✕', idle: '○'};

export function state(level, word) {
  return [{t: signs[level], c: 'sign ' + level}, {t: word, c: 'word'}];
}

const taskLevels = {running: 'ok', starting: 'idle', draining: 'idle', paused: 'warn', unreached: 'warn', unhealthy: 'bad', lost: 'bad'};

export const taskLevel = t => taskLevels[t.state] ?? 'warn';

export function serviceLevel(s) {
  if (s.tasks === 0) return ['idle', 'no tasks'];
  if (s.inRotation === 0) return ['bad', 'down'];
  if (s.inRotation < s.tasks) return ['warn', 'degraded'];
  return ['ok', 'ok'];
}

export const order = {bad: 0, warn: 1, ok: 2, idle: 3};

export const portText = p => (p.port === p.target ? p.port : p.port + '→' + p.target) + '/' + p.protocol;

export function portsText(s) {
  return s.mode === 'dnsrr' ? '–' : s.ports.length === 0 ? 'all' : s.ports.map(portText).join(' ');
}

export function clientText(from) {
  switch (from.kind) {
    case 'service': return from.name;
    case 'host': return 'host ' + from.name;
    case 'container': return from.name;
    case 'others': return 'others';
  }
  return 'outside';
}
