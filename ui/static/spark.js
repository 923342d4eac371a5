// A line of the last rates, as large as a word.

import {h} from './dom.js';

const width = 72, height = 16;

export function spark(values) {
  if (!values || values.length < 2) return '';
  const most = Math.max(...values, 1e-9);
  const points = values.map((v, i) => `${(i * width / (values.length - 1)).toFixed(1)},${(height - 1 - v / most * (height - 2)).toFixed(1)}`).join(' ');
  return {points, node: () => h('svg', {class: 'spark', width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true'}, h('polyline', {points}))};
}
