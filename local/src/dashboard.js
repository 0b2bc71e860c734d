'use strict';
// Everything from the API is set as text, never as markup.
const node = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text ?? '' });
const clock = time => time.slice(11, 19);
let chosen = null;
// The newest event time, and when it came while this page was open: readings may be of any day, so the clock on the wall tells nothing
// of them but that they stopped.
let newest = '', newestCame = 0;

async function get(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.json();
}

async function pages(path) {
  const items = [];
  for (let cursor = ''; cursor !== null;) {
    const page = await get(`${path}&cursor=${encodeURIComponent(cursor)}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  }
  return items;
}

function card(plan) {
  const box = node('button');
  box.setAttribute('aria-pressed', plan.intersection_id === chosen);
  box.onclick = () => { chosen = plan.intersection_id; showDecisions(plan).catch(say); };
  const head = node('div', 'head');
  const over = Date.parse(plan.valid_until) < Date.parse(newest);
  head.append(node('strong', '', plan.intersection_id), over ? node('span', 'source over', `ran out at ${clock(plan.valid_until)}`)
    : node('span', `source ${plan.source}`, plan.source.replaceAll('_', ' ')));
  if (over) {
    box.append(head, node('div', 'why', 'Other junctions have newer readings. A controller without a newer plan is back on its time of day.'));
    return box;
  }
  const now = Date.parse(plan.as_of), from = now - 15e3, length = Date.parse(plan.valid_until) - from, bar = node('div', 'bar');
  for (const entry of plan.stages) {
    const start = Math.max(from, Date.parse(entry.start)), end = Math.min(from + length, Date.parse(entry.start) + 1e3 * entry.green_s);
    if (end <= start) continue;
    const span = node('span', Date.parse(entry.start) <= now && now <= end ? 'now' : '', entry.stage);
    span.title = `stage ${entry.stage}: green from ${clock(entry.start)} for ${entry.green_s} s`;
    span.style.left = `${100 * (start - from) / length}%`;
    span.style.width = `${100 * (end - start) / length}%`;
    bar.append(span);
  }
  box.append(head, bar, node('div', 'why', plan.reason.text));
  return box;
}

async function showDecisions(plan) {
  const section = document.getElementById('decisions'), from = new Date(Date.parse(plan.as_of) - 600e3).toISOString();
  const items = await pages(`/v1/intersections/${encodeURIComponent(plan.intersection_id)}/decisions?from=${from}&limit=500`);
  section.hidden = false;
  section.querySelector('h2').textContent = `${plan.intersection_id}: decisions of the last 10 minutes`;
  section.querySelector('tbody').replaceChildren(...items.reverse().map(decision => {
    const row = node('tr');
    row.append(node('td', '', clock(decision.as_of)), node('td', '', decision.reason.text),
      node('td', '', decision.candidates.map(c => `${c.stage}: ${c.cost.toFixed(1)}${c.limit ? ` (${c.limit})` : ''}`).join(', ')),
      node('td', '', decision.distrusted.map(d => `${d.detector_id} (${d.reason})`).join(', ')));
    return row;
  }));
}

function row(...cells) {
  const line = node('tr');
  line.append(...cells.map(cell => {
    const td = node('td', '', typeof cell === 'string' ? cell : '');
    if (typeof cell !== 'string') td.append(cell);
    return td;
  }));
  return line;
}

function fill(id, rows) {
  const section = document.getElementById(id);
  section.hidden = rows.length === 0;
  section.querySelector('tbody').replaceChildren(...rows);
}

const WEIGHT = { open: 0, acknowledged: 1, cleared: 2 };
const ALERTS_SHOWN = 30, MACHINES_SHOWN = 30;

function alertRow(alert) {
  let action = node('span', '', alert.acknowledgement ? `known to ${alert.acknowledgement.by}` : '');
  if (alert.status === 'open') {
    action = node('button', '', 'Acknowledge');
    action.onclick = async () => {
      action.disabled = true;
      try {
        const body = JSON.stringify({ by: 'dashboard', note: null });
        const path = `/v1/alerts/${encodeURIComponent(alert.id)}/acknowledgement`;
        const answer = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
        if (!answer.ok) throw new Error((await answer.json()).detail);
        await showAlerts();
      } catch (error) {
        action.disabled = false;
        say(error);
      }
    };
  }
  const times = alert.occurrences > 1 ? ` (${alert.occurrences} times)` : '';
  return row(node('span', `state ${alert.status}`, alert.status), alert.asset_id, alert.fault.replaceAll('_', ' ') + times,
    clock(alert.last_raised_at) + (alert.cleared_at ? ` to ${clock(alert.cleared_at)}` : ''), alert.text, alert.recommended_action, action);
}

async function showAlerts() {
  const alerts = await pages('/v1/alerts?limit=500');
  alerts.sort((a, b) => WEIGHT[a.status] - WEIGHT[b.status] || b.last_raised_at.localeCompare(a.last_raised_at));
  fill('alerts', alerts.slice(0, ALERTS_SHOWN).map(alertRow));
}

function lifeBar(life) {
  if (!life) return node('span', '', 'unknown');
  const bar = node('div', 'bar life'), scale = Math.max(125, life.p95), span = node('span', '', '');
  span.style.left = `${100 * life.p05 / scale}%`;
  span.style.width = `${Math.max(1, 100 * (life.p95 - life.p05) / scale)}%`;
  bar.append(span);
  bar.title = `${life.p05} to ${life.p95} ${life.unit}`;
  const box = node('div', '', `${life.p50} ${life.unit} (${life.p05} to ${life.p95})`);
  box.append(bar);
  return box;
}

async function showMachines() {
  const assets = (await pages('/v1/assets?limit=500')).filter(asset => asset.kind !== 'detector' && asset.health_index !== null);
  assets.sort((a, b) => a.health_index - b.health_index).splice(MACHINES_SHOWN);
  const all = await Promise.all(assets.map(asset => get(`/v1/assets/${encodeURIComponent(asset.id)}/health`)));
  fill('machines', all.map(health => row(node('span', `state ${health.state}`, health.state), health.asset_id, health.kind,
    health.health_index === null ? '' : String(health.health_index), lifeBar(health.remaining_useful_life), health.reasons[0]?.text ?? '')));
}

const say = error => { document.getElementById('said').textContent = `${error.message ?? error}`; };

async function refresh() {
  try {
    const plans = await pages('/v1/plans?limit=500'), last = plans.map(p => p.as_of).sort().at(-1) ?? '';
    if (last !== newest) [newest, newestCame] = [last, performance.now()];
    document.getElementById('junctions').replaceChildren(...plans.map(card));
    const quiet = performance.now() - newestCame, lives = Math.max(0, ...plans.map(p => Date.parse(p.valid_until) - Date.parse(p.as_of)));
    say(plans.length ? `${plans.length} junctions, newest reading ${newest}`
                       + (quiet > lives ? `; no other for ${Math.floor(quiet / 1e3)} s or longer: plans have run out` : '')
                     : 'No plan yet: configure an intersection and send readings.');
    const plan = plans.find(p => p.intersection_id === chosen);
    if (plan) await showDecisions(plan);
    await showAlerts();
    await showMachines();
  } catch (error) {
    say(error);
  }
  setTimeout(refresh, 1000);
}
refresh();
