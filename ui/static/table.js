// A table whose rows are kept, by their keys, while what they say changes: what
// has the focus keeps it.

import {h, set} from './dom.js';

const page = 200; // rows that are shown at first

export class Table {
  // columns: {title, cell: row -> parts, value: row -> what to sort by, num, wide: left out on narrow screens, head: names the row}
  constructor({caption, columns, sort = 0, down = false, empty = 'None.', hideCaption = false}) {
    Object.assign(this, {columns, sort, down, empty, shown: page, rows: [], made: new Map()});
    this.heads = columns.map((c, i) => {
      const button = h('button', {type: 'button', onclick: () => this.sortBy(i)}, c.title);
      return h('th', {scope: 'col', class: classOf(c)}, c.value ? button : c.title);
    });
    this.body = h('tbody');
    this.more = h('button', {type: 'button', class: 'more', onclick: () => { this.shown += 5 * page; this.render(); }});
    this.none = h('p', {class: 'quiet'}, empty);
    this.table = h('table', {}, h('caption', {class: hideCaption && 'hidden'}, caption), h('thead', {}, h('tr', {}, this.heads)), this.body);
    this.el = h('div', {class: 'table'}, this.table, this.none, this.more);
  }

  sortBy(i) {
    this.down = this.sort === i ? !this.down : !!this.columns[i].num;
    this.sort = i;
    this.render();
  }

  // update shows rows: [key, row].
  update(rows, words = []) {
    this.rows = rows;
    this.none.textContent = words.length ? 'Nothing fits the filter.' : this.empty;
    this.render();
  }

  render() {
    const by = this.columns[this.sort].value;
    const sorted = this.rows.map(([key, row]) => [key, row, by(row)]);
    sorted.sort((a, b) => (this.down ? -1 : 1) * compare(a[2], b[2]) || compare(a[0], b[0]));
    this.heads.forEach((th, i) => {
      if (this.columns[i].value) th.setAttribute('aria-sort', i !== this.sort ? 'none' : this.down ? 'descending' : 'ascending');
    });
    const last = this.made;
    this.made = new Map();
    let at = this.body.firstChild;
    for (const [key, row] of sorted.slice(0, this.shown)) {
      const tr = last.get(key) ?? h('tr', {}, this.columns.map(c => h(c.head ? 'th' : 'td', {scope: c.head && 'row', class: classOf(c)})));
      this.made.set(key, tr);
      last.delete(key);
      this.columns.forEach((c, i) => set(tr.children[i], c.cell(row)));
      if (tr !== at) this.body.insertBefore(tr, at);
      else at = at.nextSibling;
    }
    for (const tr of last.values()) tr.remove();
    const left = sorted.length - this.made.size;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show more: ${left} are left`;
    this.table.hidden = sorted.length === 0;
    this.none.hidden = sorted.length > 0;
  }
}

function classOf(c) {
  return [c.num && 'num', c.wide && 'wide', c.c].filter(Boolean).join(' ') || undefined;
}

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return String(a).localeCompare(String(b), 'en', {numeric: true});
}
