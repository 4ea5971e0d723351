// The status page: shows what the server tells over /heartwire/status, and lets a visitor try a connection.

import { HeartSocket } from '/heartwire/heartwire.js';
import { NodeTable } from '/heartwire/nodes.js';
import { TopicTable } from '/heartwire/topics.js';
import { Trace } from '/heartwire/trace.js';
import { bytes, cell, count, duration, element, plain } from '/heartwire/words.js';

const $ = (id) => document.getElementById(id);
const socketUrl = (path) => new URL(path, location.href.replace(/^http/, 'ws')).href;

/** The peer, and before it the user whom the connection belongs to, if the server knows one. */
const whom = ({ user, peer }) => (user ? `${plain(user)}, ${peer}` : peer);

// A row of the table. #################################################################################################

const CELLS = [
  ['peer'],
  ['state'],
  ['pulse'],
  ['round_trip', 'round trip'],
  ['age', 'age'],
  ['messages', 'messages'],
  ['bytes', 'bytes'],
  ['queue', 'queue'],
];

class Row {
  /** How long one that has ended stays in the table. */
  static FAREWELL = 12_000;

  #cells = {};
  #beats = 0;
  #missed = 0;
  #leftAt = null;

  constructor(info, now) {
    this.id = info.id;
    this.element = element('tr');
    this.element.setAttribute('role', 'row');
    for (const [name, label] of CELLS) {
      this.#cells[name] = cell(name, label);
      this.element.append(this.#cells[name]);
    }
    const canvas = element('canvas');
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `The pulse of connection ${info.id}`);
    this.#cells.pulse.append(canvas);
    this.trace = new Trace(canvas, now - info.age);
    this.#cells.peer.append(element('b'), element('small'));
    this.#cells.state.append(element('span', 'chip'), element('small'));
  }

  get canvas() {
    return this.#cells.pulse.firstChild;
  }

  /** What the server tells of it now. */
  update(info, ownId, now) {
    if (info.beats > this.#beats) {
      // An idle line's newest byte was the Pong.
      const at = now - Math.min(info.silent, this.#beats === 0 ? info.age : 2_500);
      this.trace.beat(at, info.round_trip);
    }
    if (info.missed > this.#missed) this.trace.miss(now);
    this.#beats = info.beats;
    this.#missed = info.missed;
    this.trace.goOn();
    this.trace.isMissing = info.missed > 0;

    const [name, place] = this.#cells.peer.children;
    const what = info.id === ownId ? 'this page' : info.is_watcher ? 'a page like this' : info.path;
    name.textContent = `#${info.id} ${what}`;
    name.title = [info.path, info.extensions].filter(Boolean).join('\n');
    place.textContent = whom(info);
    place.title = place.textContent;
    if (info.missed > 0) this.#show('missed', `missed ${info.missed} of ${info.max_missed}`, info);
    else this.#show('alive', 'alive', info);
    this.#cells.round_trip.textContent = info.round_trip === null ? '–' : duration(info.round_trip);
    this.#cells.age.textContent = duration(info.age);
    this.#cells.messages.textContent = `${count.format(info.messages_in)} / ${count.format(info.messages_out)}`;
    this.#cells.bytes.textContent = `${bytes(info.bytes_in)} / ${bytes(info.bytes_out)}`;
    this.#cells.queue.textContent = bytes(info.queued);
  }

  #show(state, text, { silent, away = null }) {
    this.element.dataset.state = state;
    const [chip, remark] = this.#cells.state.children;
    chip.textContent = text;
    remark.textContent = away > 1_000 ? `handler away for ${duration(away)}` : `silent for ${duration(silent)}`;
  }

  /** What has become of it nobody tells us any more. */
  lose(now) {
    if (this.#leftAt !== null) return;
    this.trace.end(now, true);
    this.element.dataset.state = 'closed';
    const [chip, remark] = this.#cells.state.children;
    chip.textContent = 'unknown';
    remark.textContent = '';
  }

  /** It has ended; `report` says why, if the server still remembers. */
  leave(report, now) {
    if (this.#leftAt !== null) return;
    this.#leftAt = now;
    const isDead = report !== undefined && !report.is_clean;
    this.trace.end(now, !isDead);
    this.element.dataset.state = isDead ? 'dead' : 'closed';
    const [chip, remark] = this.#cells.state.children;
    chip.textContent = isDead ? 'dead' : 'closed';
    remark.textContent = report?.reason ?? '';
    if (report && report.missed > this.#missed) this.trace.miss(now);
  }

  isOver(now) {
    return this.#leftAt !== null && now - this.#leftAt > Row.FAREWELL;
  }
}

// The whole state. ####################################################################################################

const rows = new Map();
let server = null;
let span = 60_000;

function show(state, ownId) {
  const now = performance.now();
  if (server?.started !== state.server.started) clear();
  server = state.server;
  // Some six beats are in sight.
  span = Math.min(Math.max((server.interval ?? 10_000) * 6, 20_000), 180_000);
  showServer();
  showTotals(state);
  if (state.backplane) nodes.show(state.backplane);
  showConnections(state, ownId, now);
  showEnded(state.ended);
}

/** Another server than before: its numbers begin anew. */
function clear() {
  for (const row of rows.values()) row.element.remove();
  rows.clear();
  nodes.clear();
  topics.clear();
}

/** A setting, to the millisecond. */
function setting(ms) {
  return ms < 1_000 || ms >= 60_000 ? duration(ms) : `${ms / 1_000} s`;
}

/** What the server's heartbeat means, in words. */
function heartbeat({ leader, interval, timeout, max_missed: most, worst_case: worst }) {
  if (leader === 'off') return 'no heartbeat, dead peers are not found';
  if (worst === null) return `Ping every ${setting(interval)}, dead peers are not found`;
  const misses = most === 1 ? '1 miss' : `${most} misses`;
  const found = `a dead peer is found within ${setting(worst)}`;
  if (leader === 'peer') return `peers beat, dead after ${misses} of ${setting(interval)}: ${found}`;
  return `Ping every ${setting(interval)}, dead after ${misses} of ${setting(timeout)}: ${found}`;
}

function showServer() {
  $('version').textContent = server.version;
  $('heartbeat').textContent = heartbeat(server);
  $('worst-case').textContent = server.worst_case ? ` within ${setting(server.worst_case)}` : ' – or not';
  $('command').textContent = `heartwire connect ${socketUrl($('try-path').value)}`;
}

function showTotals({ open, totals }) {
  const ended = Object.values(totals.closed).reduce((sum, closed) => sum + closed, 0);
  const texts = {
    open: count.format(open),
    opened: count.format(totals.opened),
    ended: count.format(ended),
    pings: count.format(totals.pings),
    missed: count.format(totals.missed),
    messages: `${count.format(totals.messages_in)} / ${count.format(totals.messages_out)}`,
    bytes: `${bytes(totals.bytes_in)} / ${bytes(totals.bytes_out)}`,
    queued: bytes(totals.queued),
  };
  for (const [name, text] of Object.entries(texts)) {
    document.querySelector(`[data-total=${name}]`).textContent = text;
  }
}

function showConnections({ connections, ended, open }, ownId, now) {
  const present = new Set();
  const unseen = open - connections.length;
  for (const info of connections) {
    present.add(info.id);
    if (!rows.has(info.id)) addRow(new Row(info, now));
    rows.get(info.id).update(info, ownId, now);
  }
  for (const row of rows.values()) {
    if (present.has(row.id)) continue;
    const report = ended.find(({ id }) => id === row.id);
    // Where not all are shown, one that vanishes without a report may have made room for another.
    if (report || unseen === 0) row.leave(report, now);
    if (row.isOver(now) || (!report && unseen > 0)) removeRow(row);
  }
  $('hidden-rows').textContent = unseen > 0 ? `${count.format(unseen)} more are not shown.` : '';
  $('no-connections').hidden = rows.size > 0;
}

/** Rows stand in the order of their numbers. */
function addRow(row) {
  const next = [...rows.values()].filter(({ id }) => id > row.id).sort((a, b) => a.id - b.id)[0];
  rows.set(row.id, row);
  $('connections').insertBefore(row.element, next?.element ?? null);
  visible.observe(row.canvas);
}

function removeRow(row) {
  rows.delete(row.id);
  visible.unobserve(row.canvas);
  row.element.remove();
}

function showEnded(ended) {
  $('no-ended').hidden = ended.length > 0;
  const items = ended.slice(0, 12).map((report) => {
    const item = element('li');
    item.dataset.state = report.is_clean ? 'closed' : 'dead';
    item.append(element('span', 'reason', report.reason));
    const { id, path, ago, age, messages_in: received, messages_out: sent } = report;
    const figures = `open ${duration(age)}, messages ${count.format(received)} / ${count.format(sent)}`;
    item.append(element('small', '', `#${id} ${whom(report)} ${path} · ${duration(Math.max(ago, 1_000))} ago · ${figures}`));
    return item;
  });
  $('ended').replaceChildren(...items);
}

const nodes = new NodeTable();
const topics = new TopicTable((wish) => {
  if (stream.readyState === HeartSocket.OPEN) stream.send(JSON.stringify(wish));
});

// Drawing. ############################################################################################################

const inSight = new Set();
const visible = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) inSight.add(target);
    else inSight.delete(target);
  }
});
const isCalm = matchMedia('(prefers-reduced-motion: reduce)');
let drawnAt = 0;

function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  return { good: colour('good'), warn: colour('warn'), bad: colour('bad'), muted: colour('muted') };
}

function draw(now) {
  requestAnimationFrame(draw);
  // Lines need no more than 25 pictures a second; who wants little motion gets one.
  if (now - drawnAt < (isCalm.matches ? 1_000 : 40)) return;
  drawnAt = now;
  const palette = colours();
  for (const row of rows.values()) {
    if (inSight.has(row.canvas)) row.trace.draw(now, span, palette);
  }
}

requestAnimationFrame(draw);

// This page's own connection. #########################################################################################

let countdown;

function chip(state, text) {
  clearInterval(countdown);
  $('status').dataset.state = state;
  if ($('status').textContent !== text) $('status').textContent = text;
}

const stream = new HeartSocket(socketUrl('/heartwire/status'), [], { reconnect: { longest: 5_000 } });
stream.onopen = () => {
  chip('alive', 'live');
  topics.ask();
};
stream.onbeat = () => chip('alive', 'live');
stream.onmissed = ({ missed }) => chip('missed', `the server is silent (${missed})`);
stream.onmessage = ({ data }) => {
  if (stream.missed === 0) chip('alive', 'live');
  const state = JSON.parse(data);
  if (state.topics) topics.show(state.topics);
  else show(state, stream.settings?.connection);
};
stream.onclose = ({ willReconnect, retryIn }) => {
  const now = performance.now();
  for (const row of rows.values()) row.lose(now);
  if (!willReconnect) return chip('dead', 'the server does not want us');
  const due = now + retryIn;
  const tell = () => {
    const left = Math.ceil((due - performance.now()) / 1_000);
    $('status').textContent = left > 0 ? `server lost, again in ${left} s` : 'connecting';
  };
  chip('dead', 'server lost');
  tell();
  countdown = setInterval(tell, 1_000);
};

// Trying it. ##########################################################################################################

let trial = null;

function remark(kind, text) {
  const log = $('try-log');
  log.append(element('li', kind, text));
  while (log.children.length > 50) log.firstChild.remove();
  log.scrollTop = log.scrollHeight;
}

function connectTrial() {
  trial = new HeartSocket(socketUrl($('try-path').value));
  trial.onopen = () => remark('remark', 'open');
  trial.onsettings = () => remark('remark', `this is connection #${trial.settings.connection} above`);
  trial.onmessage = ({ data }) => remark('received', typeof data === 'string' ? data : `${data.size} bytes`);
  trial.onmissed = ({ missed }) => remark('remark', `the server is silent (${missed})`);
  trial.onclose = ({ code, reason, willReconnect }) => {
    const why = reason ? `${code}, ${reason}` : code;
    remark('remark', `closed (${why})${willReconnect ? ', connecting again' : ''}`);
    if (!willReconnect) trial = null;
    showTrial();
  };
  trial.addEventListener('open', showTrial);
  showTrial();
}

function showTrial() {
  $('try-connect').textContent = trial ? 'Close' : 'Connect';
  $('try-send').disabled = trial?.readyState !== HeartSocket.OPEN;
  $('try-path').disabled = trial !== null;
}

$('try-connect').addEventListener('click', () => (trial ? trial.close(1000) : connectTrial()));
$('try-path').addEventListener('input', () => server && showServer());
$('try').addEventListener('submit', (event) => {
  event.preventDefault();
  if (trial?.readyState !== HeartSocket.OPEN) return;
  const text = $('try-text').value || $('try-text').placeholder;
  trial.send(text);
  remark('sent', text);
  $('try-text').value = '';
});
