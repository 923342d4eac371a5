// The document, as the stream tells it, and what follows from it.

const sections = ['cluster', 'hosts', 'services', 'tasks', 'ports', 'problems', 'health', 'rates', 'flows', 'missing'];

const historyLength = 60;

export class Store {
  constructor() {
    this.reset();
    this.history = new Map(); // service -> its rates until now
  }

  reset() {
    for (const name of sections) this[name] = new Map();
  }

  // apply takes in an event: a whole document, or rows that changed.
  apply(whole, data) {
    if (whole) this.reset();
    for (const name of sections) {
      for (const [key, row] of Object.entries(data[name] ?? {})) {
        if (row === null) this[name].delete(key);
        else this[name].set(key, row);
      }
    }
  }

  get status() { return this.cluster.get(''); }
  get known() { return this.services.size > 0 || (this.status?.nodes === null && this.hosts.size > 0); }

  // remember notes the rates of now. A rate that does not change is not sent again.
  remember() {
    for (const [id, r] of this.rates) {
      const all = this.history.get(id) ?? [];
      all.push(r.connections);
      if (all.length > historyLength) all.shift();
      this.history.set(id, all);
    }
    for (const id of this.history.keys()) if (!this.rates.has(id)) this.history.delete(id);
  }

  get deadHosts() { return [...this.hosts.values()].filter(h => !h.alive); }
  get failures() { return [...this.problems.values()].filter(p => !p.notice); }
  get notices() { return [...this.problems.values()].filter(p => p.notice); }
  tasksOf(service) { return [...this.tasks].filter(([, t]) => t.service === service); }

  // level is how the cluster is, and in which words: what shoal status says of it.
  level() {
    const health = this.health.get('');
    if (!this.status || !health) return ['idle', 'no data yet'];
    return [health.state === 'healthy' ? 'ok' : health.severe ? 'bad' : 'warn', health.summary];
  }
}
