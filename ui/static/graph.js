// The drawing of who talks to whom: clients on the left, services to their right,
// each behind those that talk to it. On narrow screens it goes from top to bottom.

import {clean, h, part} from './dom.js';
import {clientText, rate, serviceLevel} from './format.js';

const mostEdges = 40;
const narrow = 560; // pixels
const box = {height: 34, gapX: 64, gapY: 14, most: 170};

const passing = '~'; // the places of edges begin with it

const idOf = from => (from.kind === 'service' ? 's ' + from.name : from.kind + ' ' + (from.name ?? ''));

// layers gives each node its distance from the clients: the longest way there,
// without what leads back.
function layers(nodes, edges) {
  const out = new Map([...nodes.keys()].map(id => [id, []]));
  for (const e of edges) out.get(e.from).push(e.to);
  const layer = new Map(), open = new Set(), done = [], back = new Set();
  const visit = id => {
    open.add(id);
    for (const to of out.get(id)) {
      if (open.has(to)) back.add(id + '>' + to);
      else if (!done.includes(to)) visit(to);
    }
    open.delete(id);
    done.push(id);
  };
  const entered = new Set(edges.map(e => e.to));
  const sources = [...nodes.keys()].sort((a, b) => entered.has(a) - entered.has(b));
  for (const id of sources) if (!done.includes(id)) visit(id);
  for (const id of done.reverse()) {
    layer.set(id, layer.get(id) ?? 0);
    for (const to of out.get(id)) {
      if (!back.has(id + '>' + to)) layer.set(to, Math.max(layer.get(to) ?? 0, layer.get(id) + 1));
    }
  }
  return layer;
}

// arrange makes the rows of each layer, near those that they talk to. An edge past
// other layers has a place in each, through, so that it leads past what is there.
function arrange(nodes, all) {
  const layer = layers(nodes, all), columns = [], edges = [];
  for (const [id, l] of layer) (columns[l] ??= []).push(id);
  for (const e of all) {
    e.through = [];
    let last = e.from;
    for (let l = layer.get(e.from) + 1; l < layer.get(e.to); l++) {
      const id = `${passing}${e.from}>${e.to} ${l}`;
      columns[l].push(id);
      e.through.push(id);
      edges.push({from: last, to: id});
      last = id;
    }
    edges.push({from: last, to: e.to});
  }
  for (const c of columns) c.sort();
  const place = new Map();
  const note = c => c.forEach((id, i) => place.set(id, i / c.length));
  columns.forEach(note);
  for (let sweep = 0; sweep < 4; sweep++) {
    for (const c of sweep % 2 ? columns.toReversed() : columns) {
      const middle = new Map(c.map(id => {
        const others = edges.filter(e => e.from === id || e.to === id).map(e => place.get(e.from === id ? e.to : e.from));
        return [id, others.reduce((a, b) => a + b, 0) / (others.length || 1)];
      }));
      c.sort((a, b) => middle.get(a) - middle.get(b) || (a < b ? -1 : 1));
      note(c);
    }
  }
  return columns;
}

// place gives each node its left upper corner.
function place(columns, width) {
  const at = new Map();
  if (width >= narrow) {
    const w = Math.min(box.most, (width - (columns.length - 1) * box.gapX) / columns.length);
    const rows = Math.max(...columns.map(c => c.length));
    const height = rows * (box.height + box.gapY) - box.gapY;
    const step = columns.length > 1 ? Math.min((width - w) / (columns.length - 1), w + 2 * box.gapX) : 0;
    columns.forEach((c, i) => {
      const top = (height - (c.length * (box.height + box.gapY) - box.gapY)) / 2;
      c.forEach((id, j) => at.set(id, {x: i * step, y: top + j * (box.height + box.gapY)}));
    });
    return {at, w, height, across: true};
  }
  const perLine = Math.max(1, Math.min(3, ...[Math.max(...columns.map(c => c.length))]));
  const w = Math.min(box.most, (width - (perLine - 1) * box.gapY) / perLine);
  let y = 0;
  for (const c of columns) {
    for (let i = 0; i < c.length; i += perLine) {
      const line = c.slice(i, i + perLine);
      const left = (width - line.length * (w + box.gapY) + box.gapY) / 2;
      line.forEach((id, j) => at.set(id, {x: left + j * (w + box.gapY), y}));
      y += box.height + box.gapY;
    }
    y += box.gapX - box.gapY;
  }
  return {at, w, height: y - box.gapX, across: false};
}

const shortened = (text, width) => {
  const most = Math.floor((width - 26) / 7);
  return text.length <= most ? text : text.slice(0, most - 1) + '…';
};

export class Graph {
  constructor() {
    this.svg = h('svg', {class: 'graph', role: 'group'});
    this.el = h('div', {class: 'graph-box'}, this.svg);
    new ResizeObserver(() => this.draw()).observe(this.el);
  }

  // update draws the busiest flows, and returns how many it left out.
  update(flows, services) {
    const sorted = flows.toSorted((a, b) => b.connections - a.connections || b.open - a.open || (clientText(a.from) + a.to < clientText(b.from) + b.to ? -1 : 1));
    this.flows = sorted.slice(0, mostEdges);
    this.services = services;
    this.draw();
    return flows.length - this.flows.length;
  }

  draw() {
    const width = Math.floor(this.el.clientWidth);
    this.el.hidden = !this.flows?.length;
    if (!this.flows?.length || width === 0) return;
    const nodes = new Map();
    for (const f of this.flows) {
      nodes.set(idOf(f.from), f.from);
      nodes.set('s ' + f.to, {kind: 'service', name: f.to});
    }
    const edges = this.flows.map(f => ({from: idOf(f.from), to: 's ' + f.to, flow: f}));
    const shape = JSON.stringify([width, [...nodes.keys()].sort(), edges.map(e => e.from + '>' + e.to).sort()]);
    if (shape !== this.shape) this.build(nodes, edges, width);
    this.shape = shape;
    for (const e of edges) this.show(e);
    for (const [id, n] of nodes) this.showNode(id, n);
  }

  build(nodes, edges, width) {
    const columns = arrange(nodes, edges), p = place(columns, width);
    this.lines = new Map();
    this.boxes = new Map();
    const drawn = [], labels = [];
    for (const e of edges) {
      const line = h('path', {class: 'edge', d: way(p, e)}), text = h('text', {class: 'edge-label', ...middle(p, e)});
      this.lines.set(e.from + '>' + e.to, {line, text});
      drawn.push(line);
      labels.push(text);
    }
    const boxes = [...nodes].map(([id, n]) => {
      const {x, y} = p.at.get(id), name = clientText(n);
      const sign = h('circle', {cx: x + 13, cy: y + box.height / 2, r: 4, class: 'sign'});
      const g = h(n.kind === 'service' ? 'a' : 'g', {drawn: true, class: 'node ' + n.kind, href: n.kind === 'service' ? 'service/' + part(n.name) : undefined},
        h('title', {}, name), h('rect', {x: x + .5, y: y + .5, width: p.w - 1, height: box.height - 1, rx: 5}),
        n.kind === 'service' && sign, h('text', {x: x + (n.kind === 'service' ? 22 : 12), y: y + box.height / 2 + 4.5}, shortened(name, p.w)));
      this.boxes.set(id, {sign});
      return g;
    });
    this.svg.setAttribute('viewBox', `0 0 ${width} ${Math.max(p.height, box.height)}`);
    this.svg.setAttribute('width', width);
    this.svg.setAttribute('height', Math.max(p.height, box.height));
    this.svg.setAttribute('aria-label', clean(`${nodes.size} clients and services, ${edges.length} pairs; the view Traffic has them in a table`));
    this.svg.replaceChildren(...drawn, ...boxes, ...labels);
  }

  show({from, to, flow}) {
    const {line, text} = this.lines.get(from + '>' + to);
    line.setAttribute('stroke-width', (1.2 + 1.4 * Math.log10(1 + flow.connections)).toFixed(1));
    line.setAttribute('class', flow.connections > 0 || flow.open > 0 ? 'edge' : 'edge still');
    const said = flow.connections > 0 ? rate(flow.connections) + '/s' : flow.open > 0 ? flow.open + ' open' : '';
    if (text.textContent !== said) text.textContent = said;
  }

  showNode(id, n) {
    const s = n.kind === 'service' && this.services.get(n.name);
    this.boxes.get(id).sign.setAttribute('class', 'sign ' + (s ? serviceLevel(s)[0] : 'idle'));
  }
}

// points are where an edge leaves, passes other layers, and enters.
function points(p, e) {
  const half = box.height / 2, a = p.at.get(e.from), b = p.at.get(e.to);
  const pass = e.through.flatMap(id => {
    const {x, y} = p.at.get(id);
    return p.across ? [{x, y: y + half}, {x: x + p.w, y: y + half}] : [{x: x + p.w / 2, y}, {x: x + p.w / 2, y: y + box.height}];
  });
  return p.across
    ? [{x: a.x + p.w, y: a.y + half}, ...pass, {x: b.x, y: b.y + half}]
    : [{x: a.x + p.w / 2, y: a.y + box.height}, ...pass, {x: b.x + p.w / 2, y: b.y}];
}

// bend is a curve from one point to the next: its two control points.
function bend(p, a, b) {
  const by = p.across ? Math.max(30, Math.abs(b.x - a.x) / 2) : Math.max(24, Math.abs(b.y - a.y) / 2);
  return p.across ? [{x: a.x + by, y: a.y}, {x: b.x - by, y: b.y}] : [{x: a.x, y: a.y + by}, {x: b.x, y: b.y - by}];
}

function way(p, e) {
  const [first, ...rest] = points(p, e);
  let d = `M${first.x} ${first.y}`, last = first;
  rest.forEach((to, i) => {
    if (i % 2) d += `L${to.x} ${to.y}`; // straight past a layer
    else {
      const [c1, c2] = bend(p, last, to);
      d += `C${c1.x} ${c1.y} ${c2.x} ${c2.y} ${to.x} ${to.y}`;
    }
    last = to;
  });
  return d;
}

// middle is where an edge's rate stands: on its first curve, nearer to the end,
// where edges that begin at one node have parted.
function middle(p, e) {
  const [a, b] = points(p, e), [c1, c2] = bend(p, a, b), t = 0.62;
  const on = k => (1 - t) ** 3 * a[k] + 3 * (1 - t) ** 2 * t * c1[k] + 3 * (1 - t) * t * t * c2[k] + t ** 3 * b[k];
  return {x: on('x').toFixed(1), y: (on('y') + 4).toFixed(1)};
}
