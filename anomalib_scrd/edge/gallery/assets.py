"""Style and script of the gallery."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
body { max-width: none; } #counts { max-width: none; }
.controls { position: sticky; top: 0; background: var(--ground); padding: 8px 0; display: flex; flex-wrap: wrap;
  gap: 8px 20px; border-bottom: 1px solid var(--line); z-index: 1; }
#threshold { width: 320px; vertical-align: middle; } #number { width: 7em; }
#gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 12px; margin-top: 12px; }
.card { background: var(--card); border-radius: 8px; padding: 8px; border: 2px solid transparent; }
.card.above { border-color: var(--anomalous); } .card[hidden] { display: none; }
.stack { position: relative; height: 170px; } .stack img { position: absolute; inset: 0; width: 100%; height: 100%;
  object-fit: contain; }
.scales { display: flex; gap: 4px; margin-top: 4px; } .scales figure { margin: 0; flex: 1; min-width: 0; }
.scales img { width: 100%; height: 48px; object-fit: contain; display: block; }
.scales figcaption { font-size: 11px; text-align: center; }
.card p { font-size: 12px; margin: 6px 0 0; overflow-wrap: anywhere; }
.truth.normal { color: var(--normal); } .truth.anomalous { color: var(--anomalous); }
"""

SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const find = id => document.getElementById(id);
const slider = find('threshold'), number = find('number'), gallery = find('gallery');
const cards = [...gallery.children];
const low = Math.min(...data.scores.slice(-1), data.threshold ?? Infinity);
const high = Math.max(...data.scores.slice(0, 1), data.threshold ?? -Infinity);
const margin = (high - low) * 0.02 || 0.01;
for (const field of [slider, number]) field.step = (high - low + 2 * margin) / 1000;
slider.min = low - margin; slider.max = high + margin; number.step = 'any';
const start = data.threshold ?? (low + high) / 2;

function share(part, whole) {
  return whole ? `${part} of ${whole} (${(100 * part / whole).toFixed(1)} %)` : 'none';
}
function update(value) {
  let above = 0, falseAlarms = 0, normal = 0, found = 0, anomalous = 0;
  data.scores.forEach((score, index) => {
    const over = score > value, label = data.labels[index];
    above += over;
    if (label === 0) { normal++; falseAlarms += over; }
    if (label === 1) { anomalous++; found += over; }
  });
  let text = `Above ${value.toPrecision(4)}: ${share(above, data.scores.length)} pictures`;
  if (normal) text += `; false alarms ${share(falseAlarms, normal)}`;
  if (anomalous) text += `; found ${share(found, anomalous)}`;
  find('counts').textContent = text + '.';
  const show = find('show').value;
  for (const card of cards) {
    const over = Number(card.dataset.score) > value;
    card.classList.toggle('above', over);
    card.hidden = show !== 'all' && (show === 'above') !== over;
  }
}
slider.addEventListener('input', () => { number.value = slider.value; update(Number(slider.value)); });
number.addEventListener('input', () => { slider.value = number.value; update(Number(number.value)); });
find('show').addEventListener('input', () => update(Number(number.value)));
find('order').addEventListener('input', () => {
  gallery.append(...(find('order').value === 'up' ? [...cards].reverse() : cards));
});
find('opacity').addEventListener('input', event => {
  for (const map of document.querySelectorAll('.map')) map.style.opacity = event.target.value;
});
slider.value = start; number.value = start; update(start);
"""
