// The path from a service's name to its tasks, as the agent finds it just now:
// what `shoal explain` prints, drawn.

import {h} from './dom.js';
import {ask, Denied} from './stream.js';

export class Path {
  constructor(what) {
    this.what = what;
    this.again = h('button', {type: 'button', onclick: () => this.load()}, 'Look again');
    this.verdict = h('p', {class: 'verdict', role: 'status'});
    this.list = h('ol', {class: 'path'});
    this.el = h('div', {}, h('h2', {}, 'From the name to the tasks'), this.verdict, this.list, this.again);
    this.load();
  }

  stop() { this.asking?.abort(); }

  async load() {
    this.stop();
    const asking = this.asking = new AbortController();
    this.again.disabled = true;
    this.say('', 'Looking…');
    try {
      const e = await ask('v1/explain?what=' + encodeURIComponent(this.what), asking.signal);
      this.show(e);
    } catch (e) {
      if (asking.signal.aborted) return;
      this.list.replaceChildren();
      this.say('bad', e instanceof Denied ? 'The token is not valid any more.' : e.message);
    }
    this.again.disabled = false;
  }

  say(level, text) {
    this.verdict.className = 'verdict ' + level;
    this.verdict.replaceChildren(h('span', {}, text));
  }

  show(e) {
    this.say(e.ok ? 'ok' : 'bad', e.ok ? '● Every step holds, from the name to the tasks.' : '✕ ' + (e.verdict || 'It stops on the way.'));
    const all = e.steps ?? [];
    this.list.replaceChildren(...all.map((s, i) => {
      const branch = s.what === 'task', last = branch && all[i + 1]?.what !== 'task';
      return h('li', {class: [s.ok ? 'ok' : 'bad', branch && 'branch', last && 'last'].filter(Boolean).join(' ')},
        h('span', {class: 'dot', 'aria-hidden': 'true'}, s.ok ? '' : '✕'),
        h('span', {class: 'what'}, s.what, !s.ok && h('span', {class: 'hidden'}, ' (fails)'), s.node && h('span', {class: 'quiet'}, ' on ' + s.node)),
        h('span', {class: 'evidence'}, s.evidence));
    }));
  }
}
