// The topics on the status page: those that the server shows, and the members of the one that is open.

import { bytes, cell, count, duration, element, plain, plural, rate } from '/heartwire/words.js';

const $ = (id) => document.getElementById(id);

const CELLS = [
  ['topic'],
  ['offset', 'position'],
  ['rate', 'a second'],
  ['subscribers', 'subscribers'],
  ['behind', 'behind'],
  ['kept', 'kept'],
  ['bytes', 'bytes'],
];

/** A name by itself: one that is written from right to left reorders nothing beside it. */
function named(tag, name) {
  const made = element(tag, 'name');
  made.append(element('bdi', '', name));
  made.title = name;
  return made;
}

class Row {
  #cells = {};
  #name;

  /** `onToggle` is called when it is opened or closed, if it can be. */
  constructor(name, onToggle) {
    this.element = element('tr');
    this.element.setAttribute('role', 'row');
    for (const [of, label] of CELLS) {
      this.#cells[of] = cell(of, label);
      this.element.append(this.#cells[of]);
    }
    this.#name = named(onToggle ? 'button' : 'b', plain(name));
    this.#cells.topic.append(this.#name);
    if (onToggle) {
      this.#name.type = 'button';
      this.#name.addEventListener('click', onToggle);
      this.isOpen = false;
    }
  }

  set isOpen(isOpen) {
    this.#name.setAttribute('aria-expanded', isOpen);
  }

  update(info) {
    for (const name of ['offset', 'subscribers', 'behind', 'kept']) {
      this.#cells[name].textContent = count.format(info[name]);
    }
    this.#cells.rate.textContent = info.rate === null ? '–' : rate(info.rate);
    this.#cells.bytes.textContent = bytes(info.bytes);
    this.#cells.behind.classList.toggle('warn', info.behind > 0);
  }
}

/** Who is subscribed to the topic that is open, as a row below its own. */
class Members {
  #list = element('ul', 'members');
  #note = element('p', 'note');

  constructor() {
    this.element = element('tr', 'opened');
    this.element.setAttribute('role', 'row');
    const only = cell('');
    only.colSpan = CELLS.length;
    only.append(this.#list, this.#note);
    this.element.append(only);
  }

  update({ members, more }) {
    this.#list.replaceChildren(...(members ?? []).map(member));
    this.#note.textContent = members?.length ? '' : 'Nobody is subscribed.';
    if (more > 0) this.#note.textContent = `${count.format(more)} more are not shown.`;
  }
}

function member({ user, connection, node, state, missed, max_missed: most, silent, round_trip: roundTrip }) {
  const item = element('li');
  item.dataset.state = state === 'doubted' ? 'missed' : 'alive';
  const name = named('b', user === undefined ? `#${connection}` : plain(user));
  // Of a connection to another server only its state is known here.
  const isHere = missed !== undefined;
  const doubt = isHere ? `in doubt, missed ${missed} of ${most}` : 'in doubt';
  // The server tells whole milliseconds.
  const trip = roundTrip === null ? 'no round trip yet' : `round trip ${roundTrip < 1 ? '< 1' : count.format(roundTrip)} ms`;
  const elsewhere = node === undefined ? 'on another server' : `on server ${node}`;
  const chip = element('span', 'chip', state === 'doubted' ? doubt : 'alive');
  item.append(name, chip, element('small', '', isHere ? `silent for ${duration(silent)}, ${trip}` : elsewhere));
  return item;
}

/** All topics in words. */
function summary({ count: topics, subscribers, behind, published, lost, refused, matching, shown, has_presence: hasPresence }) {
  const parts = [
    plural(topics, 'topic', 'topics'),
    plural(subscribers, 'subscription', 'subscriptions') + (behind > 0 ? ` (${count.format(behind)} behind)` : ''),
    `${plural(published, 'message', 'messages')} published`,
    `${count.format(lost)} told of a loss`,
    `${plural(refused, 'request', 'requests')} refused`,
  ];
  const unseen = matching - shown.length;
  const more = unseen > 0 ? ` The busiest are shown; ${count.format(unseen)} more are not.` : '';
  const hint = hasPresence && shown.length > 0 ? ' Open one to see who is subscribed.' : '';
  return `${parts.join(', ')}.${more}${hint}`;
}

export class TopicTable {
  #ask;
  #rows = new Map();
  #members = new Members();
  /** The topic whose members are shown. */
  #open = null;
  #hasPresence = false;

  /** `ask` tells the server what is to be shown, if there is a connection to it. */
  constructor(ask) {
    this.#ask = ask;
    $('topics-filter').addEventListener('input', () => this.ask());
  }

  /** Tells the server what is to be shown, also on a new connection. */
  ask() {
    // Half of a character is no text.
    const filter = $('topics-filter').value.replace(/\p{Cs}/gu, '');
    this.#ask({ filter, open: this.#open });
  }

  /** Another server than before, which may have no topics. */
  clear() {
    $('topics-section').hidden = true;
    $('topics').replaceChildren();
    this.#rows.clear();
  }

  show(topics) {
    if (topics.has_presence !== this.#hasPresence) this.clear();
    this.#hasPresence = topics.has_presence;
    $('topics-section').hidden = false;
    $('topics-note').textContent = summary(topics);
    $('no-topics').hidden = topics.matching > 0;
    $('no-topics').textContent = topics.count > 0 ? `No topic has “${plain(topics.filter)}” in its name.` : 'There are none yet.';
    this.#showRows(topics.shown);
    this.#showMembers(topics.open);
  }

  /** Rows stand in the order of the server, which is that of their names. */
  #showRows(shown) {
    const names = new Set(shown.map(({ name }) => name));
    for (const [name, row] of this.#rows) {
      if (!names.has(name)) {
        row.element.remove();
        this.#rows.delete(name);
      }
    }
    let previous = null;
    for (const info of shown) {
      const row = this.#rows.get(info.name) ?? this.#add(info.name);
      row.update(info);
      // One that is in its place stays there: moving it would take the focus from it.
      const next = previous ? previous.nextSibling : $('topics').firstChild;
      const place = next === this.#members.element ? next.nextSibling : next;
      if (place !== row.element) $('topics').insertBefore(row.element, place);
      previous = row.element;
    }
  }

  #add(name) {
    const row = new Row(name, this.#hasPresence && (() => this.#toggle(name)));
    this.#rows.set(name, row);
    return row;
  }

  #toggle(name) {
    this.#open = this.#open === name ? null : name;
    for (const [of, row] of this.#rows) row.isOpen = of === this.#open;
    this.#members.element.remove();
    this.ask();
  }

  /** Below the topic, if that is shown. */
  #showMembers(open) {
    const row = this.#rows.get(this.#open);
    const isShown = row !== undefined && open?.name === this.#open && this.#hasPresence;
    if (!isShown) return this.#members.element.remove();
    this.#members.update(open);
    row.isOpen = true;
    if (row.element.nextSibling !== this.#members.element) row.element.after(this.#members.element);
  }
}
