// The backplane on the status page, and the servers that share it: those that are there, and those that were.

import { cell, count, duration, element, plain, plural, setText } from '/heartwire/words.js';

const $ = (id) => document.getElementById(id);

const CELLS = [
  ['peer'],
  ['state'],
  ['age', 'running for'],
  ['connections', 'connections'],
  ['subscriptions', 'subscriptions'],
  ['users', 'members'],
  ['behind', 'behind'],
  ['waiting', 'waiting'],
  ['trip', 'round trip'],
];

const NOTHING = '–';
const trip = (ms) => (ms === null ? NOTHING : duration(ms));
const number = (value) => (value === null ? NOTHING : count.format(value));

/** How far a copy is behind. How many messages it lacks is not known while nobody answers. */
function lag({ lag, behind }) {
  if (behind === 0) return '0';
  return `${lag > 0 ? count.format(lag) : '?'} for ${duration(behind)}`;
}

/** What is to be said of a server that is there: a state by its colour, and in words. */
function health({ state, connected }) {
  if (state === 'unknown') return ['closed', 'unknown'];
  if (state === 'doubted') return ['missed', 'in doubt'];
  return connected ? ['alive', 'alive'] : ['missed', 'without Redis'];
}

class Row {
  #cells = {};

  constructor(name) {
    this.element = element('tr');
    this.element.setAttribute('role', 'row');
    for (const [of, label] of CELLS) {
      this.#cells[of] = cell(of, label);
      this.element.append(this.#cells[of]);
    }
    this.#cells.peer.append(element('b'), element('small', '', `node ${plain(name)}`));
    this.#cells.state.append(element('span', 'chip'), element('small'));
  }

  /** One that is there. */
  update(node) {
    const remark = node.is_own ? 'this server' : `silent for ${duration(node.silent)}`;
    this.#show(node.address, health(node), remark);
    const { age, connections, subscriptions, members, waiting, round_trip: roundTrip } = node;
    this.#fill({
      age: duration(age),
      connections: number(connections),
      subscriptions: number(subscriptions),
      users: number(members),
      behind: lag(node),
      waiting: number(waiting),
      trip: trip(roundTrip),
    });
    this.#cells.behind.classList.toggle('warn', node.behind > 0);
  }

  /** One that was there. */
  end({ address, was_dead: wasDead, ago }) {
    this.#show(address, wasDead ? ['dead', 'lost'] : ['closed', 'ended'], `${duration(Math.max(ago, 1_000))} ago`);
    this.#fill({});
  }

  #show(address, [state, text], remark) {
    const [place] = this.#cells.peer.children;
    setText(place, address === '' ? NOTHING : plain(address));
    place.title = place.textContent;
    this.element.dataset.state = state;
    const [chip, small] = this.#cells.state.children;
    setText(chip, text);
    setText(small, remark);
  }

  #fill(texts) {
    for (const [of, label] of CELLS) {
      if (label) setText(this.#cells[of], texts[of] ?? NOTHING);
    }
  }
}

/** The backplane in words. */
function summary(backplane) {
  const { address, connected, since, behind, waiting, outages, away, epochs, lost } = backplane;
  const parts = [`${plain(address)} ${connected ? 'connected' : 'away'} for ${duration(since)}`];
  if (connected) parts.push(`round trip ${trip(backplane.round_trip)}`);
  parts.push(behind === 0 ? 'this server has all messages' : `this server may lack the messages of the last ${duration(behind)}`);
  parts.push(`${plural(waiting, 'message waits', 'messages wait')} to be published`);
  if (outages > 0) parts.push(`${plural(outages, 'outage', 'outages')}, away for ${duration(away)} in all`);
  if (epochs > 0) parts.push(`messages were lost ${plural(epochs, 'time', 'times')}`);
  if (lost > 0) parts.push(`${plural(lost, 'other server was', 'other servers were')} found dead`);
  const unseen = backplane.count - backplane.nodes.length;
  return `${parts.join(', ')}.${unseen > 0 ? ` ${count.format(unseen)} more servers are not shown.` : ''}`;
}

export class NodeTable {
  #rows = new Map();

  /** Another server than before, which may have no backplane. */
  clear() {
    $('nodes-section').hidden = true;
    $('nodes').replaceChildren();
    this.#rows.clear();
  }

  show(backplane) {
    $('nodes-section').hidden = false;
    $('backplane').dataset.state = backplane.connected ? 'alive' : 'dead';
    setText($('backplane'), backplane.connected ? 'Redis connected' : 'Redis away');
    setText($('nodes-note'), summary(backplane));
    const { nodes, former } = backplane;
    for (const node of nodes) this.#row(node.name).update(node);
    for (const node of former) this.#row(node.name).end(node);
    const names = [...nodes, ...former].map(({ name }) => name);
    for (const name of [...this.#rows.keys()].filter((name) => !names.includes(name))) this.#rows.delete(name);
    const wanted = names.map((name) => this.#rows.get(name).element);
    const shown = $('nodes').children;
    const isAsWanted = shown.length === wanted.length && wanted.every((row, place) => row === shown[place]);
    if (!isAsWanted) $('nodes').replaceChildren(...wanted);
  }

  #row(name) {
    if (!this.#rows.has(name)) this.#rows.set(name, new Row(name));
    return this.#rows.get(name);
  }
}
