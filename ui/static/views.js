// The views: each makes its elements once, and brings them up to date.

import {h, part, set} from './dom.js';
import {age, bytes, clientText, count, known, millis, ms, order, portsText, rate, serviceLevel, state, taskLevel, when} from './format.js';
import {Graph} from './graph.js';
import {spark} from './spark.js';
import {Table} from './table.js';

const service = id => ({t: id, href: 'service/' + part(id)});
const since = time => ({t: age(time), title: when(time)});

export const serviceColumns = store => [
  {title: 'State', cell: s => state(...serviceLevel(s)), value: s => order[serviceLevel(s)[0]], c: 'state'},
  {title: 'Service', head: true, cell: s => service(s.id), value: s => s.id},
  {title: 'Tasks', num: true, cell: s => `${s.inRotation}/${s.tasks}`, value: s => s.inRotation},
  {title: 'Conn/s', num: true, cell: s => rate(store.rates.get(s.id)?.connections), value: s => store.rates.get(s.id)?.connections ?? -1},
  {title: '3 min', wide: true, cell: s => spark(store.history.get(s.id))},
  {title: 'VIP', wide: true, c: 'mono', cell: s => s.vip ?? '–', value: s => s.vip ?? ''},
  {title: 'Ports', wide: true, cell: portsText, value: portsText},
  {title: 'Published', wide: true, cell: s => (s.published ?? ['–']).join(' '), value: s => (s.published ?? []).join(' ')},
];

export const taskColumns = alone => [
  {title: 'State', cell: t => state(taskLevel(t), t.state), value: t => order[taskLevel(t)] + t.state, c: 'state'},
  {title: 'Task', head: true, cell: t => ({t: t.name, title: t.container}), value: t => t.name},
  !alone && {title: 'Service', cell: t => service(t.service), value: t => t.service},
  {title: 'Host', cell: t => t.node, value: t => t.node, wide: !alone},
  {title: 'Address', wide: true, c: 'mono', cell: t => t.addr, value: t => t.addr},
  {title: 'Weight', num: true, wide: true, cell: t => t.weight, value: t => t.weight},
  {title: 'In state', num: true, cell: t => since(t.since), value: t => -Date.parse(t.since)},
  {title: 'Up', num: true, wide: true, cell: t => since(t.started), value: t => -Date.parse(t.started)},
].filter(Boolean);

const hostColumns = [
  {title: 'State', cell: n => state(n.alive ? 'ok' : 'bad', n.alive ? 'alive' : 'dead'), value: n => +n.alive, c: 'state'},
  {title: 'Host', head: true, cell: n => [n.name, n.reason === 'this host' && {t: ' (this one)', c: 'quiet'}].filter(Boolean), value: n => n.name},
  {title: 'Address', c: 'mono', cell: n => n.addr, value: n => n.addr},
  {title: 'Tasks', num: true, cell: n => n.tasks, value: n => n.tasks},
  {title: 'RTT', num: true, cell: n => ms(n.rtt), value: n => millis(n.rtt)},
  {title: 'Containers', wide: true, c: 'mono', cell: n => n.subnet ?? '–', value: n => n.subnet ?? ''},
  {title: 'By', wide: true, cell: n => n.transport ?? '–', value: n => n.transport ?? ''},
  {title: 'Store', wide: true, cell: n => n.role || '–', value: n => n.role},
  {title: 'Why', wide: true, cell: n => (n.alive ? '' : n.reason ?? ''), c: 'text'},
];

const portColumns = [
  {title: 'Port', head: true, cell: p => `${p.port}/${p.protocol}`, value: p => p.port},
  {title: 'Service', cell: p => service(p.service), value: p => p.service},
  {title: 'Task port', num: true, cell: p => p.targets.join(' ') || '–', value: p => p.targets[0] ?? 0},
  {title: 'On', cell: p => (p.ips ? p.ips.join(' ') : p.local ? 'hosts with a task' : 'every host'), value: p => (p.ips ? 1 : 0)},
];

const flowColumns = [
  {title: 'From', head: true, cell: f => (f.from.kind === 'service' ? service(f.from.name) : [clientText(f.from), f.from.kind === 'container' && {t: ' container', c: 'quiet'}].filter(Boolean)), value: f => clientText(f.from)},
  {title: 'To', cell: f => service(f.to), value: f => f.to},
  {title: 'Conn/s', num: true, cell: f => rate(f.connections), value: f => f.connections},
  {title: 'Open', num: true, cell: f => f.open, value: f => f.open},
];

// matches tells whether a row has the words of the filter.
export function matches(words, ...texts) {
  const all = texts.join(' ').toLowerCase();
  return words.every(w => all.includes(w));
}

const rows = (map, words, texts) => [...map].filter(([, r]) => matches(words, ...texts(r)));

const tables = {
  services: (store, words) => rows(store.services, words, s => [s.id, s.vip, ...(s.published ?? [])]),
  tasks: (store, words) => rows(store.tasks, words, t => [t.name, t.service, t.node, t.addr, t.state]),
  hosts: (store, words) => rows(store.hosts, words, n => [n.name, n.addr, n.subnet]),
  ports: (store, words) => rows(store.ports, words, p => [p.port, p.service]),
  flows: (store, words) => rows(store.flows, words, f => [clientText(f.from), f.to]),
};

// One view is a table.
function tableView(title, name, columns, options = {}) {
  return store => {
    const table = new Table({caption: title, columns: columns(store), ...options});
    const note = h('p', {class: 'quiet'});
    return {
      title, el: h('section', {}, table.el, note),
      update(words) {
        table.update(tables[name](store, words), words);
        set(note, shortened(store, name));
      },
    };
  };
}

// shortened says that the document has not all there is.
function shortened(store, name) {
  const real = store.status?.[name];
  return typeof real === 'number' && real > store[name].size ? `The page has ${store[name].size} of ${real}; the command line lists all.` : '';
}

export const services = tableView('Services', 'services', serviceColumns, {sort: 1});
export const tasks = tableView('Tasks', 'tasks', () => taskColumns(), {sort: 2});
export const hosts = tableView('Hosts', 'hosts', () => hostColumns, {sort: 1});
export const ports = tableView('Published ports', 'ports', () => portColumns, {empty: 'No port is published.'});

// problemList shows problems whole: what is wrong, and what to do.
class ProblemList {
  constructor() {
    this.el = h('ul', {class: 'problems'});
  }

  update(all) {
    const now = JSON.stringify(all);
    if (now === this.said) return;
    this.said = now;
    this.el.replaceChildren(...all.map(p => h('li', {class: p.notice ? 'notice' : 'bad'},
      h('p', {}, ...state(p.notice ? 'warn' : 'bad', p.notice ? 'notice' : 'problem').map(s => h('span', {class: s.c}, s.t)), ' ',
        h('strong', {}, p.object), ' ', h('span', {class: 'quiet'}, [p.kind, p.node, p.code, known(p.since) && `since ${when(p.since)}`].filter(Boolean).join(' · '))),
      h('p', {class: 'reason'}, p.reason))));
  }
}

const newestFirst = (a, b) => Date.parse(b.since) - Date.parse(a.since);

export function problems(store) {
  const list = new ProblemList(), none = h('p', {class: 'quiet'});
  return {
    title: 'Problems', el: h('section', {}, h('h1', {}, 'Problems'), list.el, none),
    update(words) {
      const fit = p => matches(words, p.object, p.kind, p.node, p.code, p.reason);
      const all = [...store.failures.sort(newestFirst), ...store.notices.sort(newestFirst)].filter(fit);
      list.update(all);
      none.textContent = all.length ? '' : 'No problems.';
    },
  };
}

function missing(store) {
  return [...store.missing].map(([host, why]) => `Host ${host} is not counted: ${why}.`).join(' ');
}

export function traffic(store) {
  const graph = new Graph(), note = h('p', {class: 'quiet'}), missed = h('p', {class: 'quiet'});
  const table = new Table({caption: 'Connections', columns: flowColumns, sort: 2, down: true, empty: 'Nobody was seen to talk to a service since this page was opened.'});
  return {
    title: 'Traffic', el: h('section', {}, h('h1', {}, 'Who talks to whom'), graph.el, note, missed, table.el),
    update(words) {
      const flows = tables.flows(store, words);
      table.update(flows, words);
      const left = graph.update(flows.map(([, f]) => f), store.services);
      set(note, ['New connections a second, sampled from what the hosts track.', left ? ` ${count(left, 'more pair')} in the table.` : '']);
      set(missed, missing(store));
    },
  };
}

// figure is a number of the strip at the top.
function figure(label, href) {
  const value = h('span', {class: 'value'}), note = h('span', {class: 'note'});
  return {
    el: h('a', {class: 'figure', href}, h('span', {class: 'label'}, label), value, note),
    update(v, n, level) {
      set(value, v);
      set(note, n);
      note.className = 'note ' + (level ?? '');
    },
  };
}

export function overview(store) {
  const [hostsF, servicesF, tasksF, portsF, rateF] = [
    figure('Hosts', 'hosts'), figure('Services', 'services'), figure('Tasks in rotation', 'tasks'), figure('Published ports', 'ports'), figure('Connections/s', 'traffic'),
  ];
  const list = new ProblemList(), problemsPart = h('section', {class: 'span'}, h('h2', {}, 'Problems'), list.el);
  const more = h('a', {href: 'problems', class: 'more'});
  problemsPart.append(more);
  const serviceTable = new Table({caption: 'Services', columns: serviceColumns(store).filter(c => c.title !== 'VIP' && c.title !== 'Ports'), sort: 0});
  const hostTable = new Table({caption: 'Hosts', columns: hostColumns.filter(c => !c.wide), sort: 0});
  const graph = new Graph(), quiet = h('p', {class: 'quiet'}, 'Nobody was seen to talk to a service since this page was opened.');
  return {
    title: 'Overview',
    el: h('div', {class: 'overview'}, h('h1', {class: 'hidden'}, 'Overview'),
      h('div', {class: 'figures span'}, hostsF.el, servicesF.el, tasksF.el, portsF.el, rateF.el),
      problemsPart, h('div', {class: 'column'}, h('section', {}, serviceTable.el), h('section', {}, hostTable.el)),
      h('section', {}, h('h2', {}, 'Who talks to whom'), graph.el, quiet)),
    update(words) {
      const dead = store.deadHosts.length, all = [...store.services.values()], st = store.status;
      const level = l => all.filter(s => serviceLevel(s)[0] === l).length;
      hostsF.update(`${store.hosts.size - dead}/${store.hosts.size}`, dead ? `${dead} dead` : 'alive', dead && 'bad');
      servicesF.update(st?.services ?? all.length, level('bad') ? `${level('bad')} down` : level('warn') ? `${level('warn')} degraded` : level('idle') ? `${level('idle')} without tasks` : 'all up', level('bad') ? 'bad' : level('warn') ? 'warn' : '');
      tasksF.update(`${st?.inRotation ?? 0}/${st?.tasks ?? 0}`, st && st.tasks > st.inRotation ? `${st.tasks - st.inRotation} not in rotation` : 'all', st && st.tasks > st.inRotation && 'warn');
      portsF.update(store.ports.size, 'on every host');
      const rates = [...store.rates.values()], sum = rates.reduce((n, r) => n + r.connections, 0), out = rates.reduce((n, r) => n + r.bytesIn + r.bytesOut, 0);
      rateF.update(rates.length ? rate(sum) : '–', out ? bytes(out) + '/s' : 'by VIP and port');
      const found = [...store.failures.sort(newestFirst), ...store.notices.sort(newestFirst)];
      list.update(found.slice(0, 4));
      problemsPart.hidden = found.length === 0;
      more.hidden = found.length <= 4;
      more.textContent = `All ${found.length} problems and notices`;
      serviceTable.update(tables.services(store, words), words);
      hostTable.update(tables.hosts(store, words), words);
      graph.update(tables.flows(store, words).map(([, f]) => f), store.services);
      quiet.hidden = store.flows.size > 0;
    },
  };
}

export {flowColumns};
