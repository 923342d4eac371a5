// The page: what is shown is in the fragment of its address, "#/services".

import {h, set} from './dom.js';
import {service} from './service.js';
import {state} from './format.js';
import {Store} from './store.js';
import {listen, setToken, takeToken} from './stream.js';
import * as views from './views.js';

const store = new Store();
const main = document.getElementById('main'), nav = document.getElementById('nav'), filter = document.getElementById('filter');
const badge = document.getElementById('state'), where = document.getElementById('where'), live = document.getElementById('live');

const pages = [
  ['', 'Overview', views.overview],
  ['services', 'Services', views.services, () => store.services.size],
  ['tasks', 'Tasks', views.tasks, () => store.tasks.size],
  ['hosts', 'Hosts', views.hosts, () => store.hosts.size],
  ['ports', 'Ports', views.ports, () => store.ports.size],
  ['traffic', 'Traffic', views.traffic],
  ['problems', 'Problems', views.problems, () => store.failures.length + store.notices.length],
];

const links = pages.map(([path, title, , number]) => {
  const n = h('span', {class: 'n'});
  return {path, number, n, el: h('a', {href: path}, title, number && n)};
});
nav.append(...links.map(l => l.el));

let view; // that is shown
let denied = false;

function route() {
  if (denied) return;
  view?.leave?.();
  const path = decodeURIComponent(location.hash.replace(/^#\/?/, ''));
  const one = /^service\/([a-z0-9-]+\/[a-z0-9-]+)$/.exec(path);
  const page = pages.find(([p]) => p === path) ?? pages[0];
  view = (one ? service(one[1]) : page[2])(store);
  main.replaceChildren(view.el);
  for (const l of links) {
    if (l.path === (one ? 'services' : page[0])) l.el.setAttribute('aria-current', 'page');
    else l.el.removeAttribute('aria-current');
  }
  render();
}

function render() {
  const st = store.status, [level, words] = store.level();
  set(badge, state(level, words));
  badge.className = 'badge ' + level;
  set(where, st ? [{t: st.node, c: 'strong'}, {t: `${st.zone} · ${st.dataPlane}${st.socketCgroup ? ' + connect()' : ''} · shoal ${st.version}`, c: 'wide'}] : '');
  document.title = (level === 'bad' || level === 'warn' ? '▲ ' : '') + (view ? view.title + ' – ' : '') + 'shoal' + (st ? ' on ' + st.node : '');
  for (const l of links) if (l.number) l.n.textContent = store.status ? l.number() : '';
  if (!denied) view?.update(filter.value.toLowerCase().split(/\s+/).filter(Boolean));
}

let due = false;
function renderSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; render(); });
}

function onState(now, why) {
  live.className = 'live ' + now;
  live.textContent = {live: 'live', away: 'no connection to the agent', denied: 'no access'}[now];
  live.title = why ?? '';
  document.body.classList.toggle('stale', now !== 'live');
  denied = now === 'denied';
  if (denied) askForToken(why);
  else if (!view) route();
}

// askForToken is for who opened the page by its bare address.
function askForToken(why) {
  view = undefined;
  const input = h('input', {type: 'password', id: 'token', autocomplete: 'off', spellcheck: 'false'});
  const go = () => {
    setToken(input.value.trim().replace(/^.*#token=/, ''));
    start();
  };
  input.addEventListener('keydown', e => { if (e.key === 'Enter') go(); });
  main.replaceChildren(h('section', {class: 'denied'}, h('h1', {}, 'This page needs its token'),
    h('p', {}, 'On the host, ', h('code', {}, 'sudo shoal ui'), ' prints the address with the token. Open that, or put the token in here.'),
    h('p', {}, h('label', {for: 'token'}, 'Token '), input, ' ', h('button', {type: 'button', onclick: go}, 'Open')),
    h('p', {class: 'quiet'}, why)));
}

function start() {
  listen((name, data) => {
    store.apply(name === 'document', data);
    renderSoon();
  }, onState);
}

document.addEventListener('keydown', e => {
  if (e.key === '/' && !e.ctrlKey && !e.metaKey && !e.altKey && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    e.preventDefault();
    filter.focus();
  } else if (e.key === 'Escape' && document.activeElement === filter) {
    filter.value = '';
    render();
    main.focus();
  }
});
document.querySelector('.skip').addEventListener('click', e => { e.preventDefault(); main.focus(); });
filter.addEventListener('input', renderSoon);
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#token=')) {
    takeToken();
    start();
    return;
  }
  route();
  main.focus({preventScroll: true});
  scrollTo(0, 0);
});
setInterval(() => { store.remember(); renderSoon(); }, 3000);

takeToken();
start();
