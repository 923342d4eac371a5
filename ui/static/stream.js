// The connection to the agent. Events are read by fetch(): an EventSource cannot
// send the token.

const tokenKey = 'shoal-token';

// takeToken takes the token out of the page's address, where nobody shall see it.
export function takeToken() {
  const found = /^#token=([A-Za-z0-9]+)$/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(tokenKey, found[1]);
  history.replaceState(null, '', location.pathname + '#/');
}

export const setToken = token => sessionStorage.setItem(tokenKey, token);

function request(path, signal) {
  const token = sessionStorage.getItem(tokenKey);
  return fetch(path, {headers: token ? {Authorization: 'Bearer ' + token} : {}, cache: 'no-store', signal});
}

export class Denied extends Error {}

// ask asks once.
export async function ask(path, signal) {
  const r = await request(path, signal);
  if (r.status === 401 || r.status === 403) throw new Denied(await r.text());
  if (r.headers.get('Content-Type') !== 'application/json') throw new Error(await r.text());
  const answer = await r.json();
  if (!r.ok) throw new Error(answer.error);
  return answer;
}

// silence is how long nothing may come: the agent sends something every 15 s.
const silence = 40000;

// listen calls onEvent for each event, and onState with what the connection is:
// 'live', 'away' or 'denied'. It connects again, until that is denied.
export async function listen(onEvent, onState) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    const stop = new AbortController();
    let timer = setTimeout(() => stop.abort(), silence);
    try {
      const r = await request('v1/stream', stop.signal);
      if (r.status === 401 || r.status === 403) {
        onState('denied', await r.text());
        return;
      }
      if (!r.ok) throw new Error(await r.text());
      onState('live');
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const {value, done} = await reader.read();
        if (done) break;
        clearTimeout(timer);
        timer = setTimeout(() => stop.abort(), silence);
        const parts = (text + value).split('\n\n');
        text = parts.pop();
        for (const p of parts) {
          const found = /^event: (.*)\ndata: (.*)$/.exec(p);
          if (found) onEvent(found[1], JSON.parse(found[2]));
        }
        pause = 500;
      }
      onState('away');
    } catch (e) {
      onState('away', e.name === 'AbortError' ? '' : e.message);
    } finally {
      clearTimeout(timer);
      stop.abort();
    }
    await new Promise(resolve => setTimeout(resolve, pause));
  }
}
