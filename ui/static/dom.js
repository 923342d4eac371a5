// What makes elements. Names and texts come from containers: they are put in as
// text nodes, and nothing on this page makes HTML of text.

// clean writes characters that are not to be seen as \uXXXX, those that turn the
// direction of writing among them.
export function clean(text) {
  return String(text).replace(/[^\P{C}\n]/gu, c => '\\u' + c.codePointAt(0).toString(16).padStart(4, '0'));
}

const svgTags = new Set(['svg', 'g', 'path', 'rect', 'text', 'title', 'circle', 'polyline', 'tspan']);

// h makes an element. Links lead within the page only.
export function h(tag, attrs, ...children) {
  const drawn = svgTags.has(tag) || attrs?.drawn;
  const el = drawn ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attrs ?? {})) {
    if (value === undefined || value === null || value === false || name === 'drawn') continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'href') el.setAttribute('href', '#/' + value);
    else el.setAttribute(name, value === true ? '' : clean(value));
  }
  el.append(...children.flat().filter(c => c !== undefined && c !== null && c !== false).map(c => c instanceof Node ? c : clean(c)));
  return el;
}

// span makes what a cell has: a text, or {t: text, c: class, href, title}.
export function span(part) {
  if (typeof part !== 'object') return clean(part);
  if (part.node) return part.node();
  const attrs = {class: part.c, title: part.title};
  return part.href === undefined ? h('span', attrs, part.t) : h('a', {...attrs, href: part.href}, part.t);
}

// set replaces an element's content where what it says is another.
export function set(el, parts) {
  const list = [parts].flat().filter(p => p !== undefined && p !== null && p !== '');
  const now = JSON.stringify(list);
  if (el.said === now) return;
  el.said = now;
  el.replaceChildren(...list.map(span));
}

// key makes the part of an address that names something.
export const part = text => encodeURIComponent(text).replaceAll('%2F', '/');
