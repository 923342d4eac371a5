// One service: what it is, its tasks, who talks to it, and the path from its name to
// its tasks.

import {h, set} from './dom.js';
import {bytes, portsText, rate, serviceLevel, state, when} from './format.js';
import {Path} from './path.js';
import {spark} from './spark.js';
import {Table} from './table.js';
import {flowColumns, matches, taskColumns} from './views.js';

export function service(id) {
  return store => {
    const badge = h('span', {class: 'level'}), facts = h('dl', {class: 'facts'}), path = new Path(id);
    const tasks = new Table({caption: 'Tasks', columns: taskColumns(true), sort: 1, empty: 'It has no tasks: its name and VIP stay.'});
    const flows = new Table({caption: 'Who talks to it, and to whom it talks', columns: flowColumns, sort: 2, down: true, empty: 'No connections were seen since this page was opened.'});
    const known = h('div', {class: 'service'}, h('section', {}, facts), h('section', {}, path.el), h('div', {class: 'column'}, h('section', {}, tasks.el), h('section', {}, flows.el)));
    const unknown = h('p', {class: 'quiet'}, 'There is no such service.');
    return {
      title: id, el: h('div', {}, h('h1', {}, id, ' ', badge), known, unknown),
      update(words) {
        const s = store.services.get(id);
        known.hidden = !s;
        unknown.hidden = !!s;
        set(badge, s ? state(...serviceLevel(s)) : '');
        if (!s) return;
        fill(facts, factsOf(store, s));
        tasks.update(store.tasksOf(id).filter(([, t]) => matches(words, t.name, t.node, t.addr, t.state)), words);
        flows.update([...store.flows].filter(([, f]) => f.to === id || f.from.kind === 'service' && f.from.name === id));
      },
      leave: () => path.stop(),
    };
  };
}

function factsOf(store, s) {
  const r = store.rates.get(s.id), [stack, name] = s.id.split('/');
  return [
    ['Name', {t: `${name}.${stack}.${store.status?.zone ?? ''}`, c: 'mono'}],
    ['VIP', {t: s.vip ?? (s.mode === 'dnsrr' ? 'none: its name answers with its tasks' : 'none yet'), c: s.vip && 'mono'}],
    ['Ports', portsText(s)],
    ['Published', s.published?.join(' ') ?? '–'],
    ['Scheduler', s.scheduler || '–'],
    ['In rotation', `${s.inRotation} of ${s.tasks}`],
    ['Connections/s', [rate(r?.connections), ' ', spark(store.history.get(s.id))]],
    ['Bytes/s', r?.bytesIn || r?.bytesOut ? `${bytes(r.bytesIn)} in, ${bytes(r.bytesOut)} out` : '–'],
    s.idleSince && ['Idle since', when(s.idleSince)],
  ].filter(Boolean);
}

function fill(dl, facts) {
  const names = facts.map(f => f[0]).join();
  if (dl.names !== names) {
    dl.names = names;
    dl.replaceChildren(...facts.map(([name]) => h('div', {}, h('dt', {}, name), h('dd'))));
  }
  facts.forEach(([, value], i) => set(dl.children[i].lastChild, value));
}
