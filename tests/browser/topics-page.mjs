// A page with Topics, and what the tests say to it as its server, frame by frame.

import assert from 'node:assert/strict';

import { TOPICS_PROTOCOL, Topics } from '../../src/browser/heartwire.js';
import { fakeBrowser } from './fakes.mjs';

export const EPOCH = '4f2a90c1d3e5b607';
export const at = (offset, epoch = EPOCH) => `${epoch}:${offset}`;
export const OTHER = '0123456789abcdef';

/** Lets promises go on as far as they can. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

export function page(options = {}) {
  const browser = fakeBrowser();
  const topics = new Topics('ws://fake/', { ...options, environment: browser.environment });
  const errors = [];
  topics.onerror = ({ error }) => errors.push(error);
  let seen = 0;
  return Object.assign(browser, {
    topics,
    codes: () => errors.splice(0).map((error) => error.code ?? error),
    opens: () => {
      seen = 0;
      browser.socket.open(TOPICS_PROTOCOL);
    },
    /** The line is lost, and the next one open. */
    comesBack: () => {
      browser.socket.end();
      browser.clock.advance(250);
      seen = 0;
      browser.socket.open(TOPICS_PROTOCOL);
    },
    /** What was asked for on this connection since the last look. */
    asked: () => {
      const frames = browser.socket.sent.slice(seen).filter((text) => text.startsWith('{'));
      seen = browser.socket.sent.length;
      return frames.map((text) => JSON.parse(text));
    },
    says: (frame) => browser.socket.receive(typeof frame === 'string' ? frame : JSON.stringify(frame)),
  });
}

export function open(options) {
  const opened = page(options);
  opened.opens();
  return opened;
}

/**
 * Answers the one request that was made: each topic is at `offset`, and all that is kept follows `before`. Returns what
 * was asked for.
 */
export function accept(page, offset, epoch, before = 0) {
  const [{ id, type, topics }, ...others] = page.asked();
  assert.deepEqual([type, others], ['subscribe', []]);
  const answers = topics.map(({ topic, since }) => {
    const answer = { topic, position: at(offset, epoch) };
    return since === 'earliest' ? { ...answer, since: at(before, epoch) } : answer;
  });
  page.says({ type: 'subscribed', id, topics: answers });
  return topics;
}

export const message = (offset, topic = 'news', epoch = EPOCH) => {
  return { type: 'message', topic, position: at(offset, epoch), text: `${topic} ${offset}` };
};

/** Subscribes, and keeps what comes: the texts of messages, and the position of each loss. */
export function read(page, topic = 'news', options = {}) {
  const got = [];
  const onlost = ({ position }) => got.push(`lost ${position}`);
  return Object.assign(page.topics.subscribe(topic, ({ data }) => got.push(data), { onlost, ...options }), { got });
}

/** A page that has read the first message of `news`. */
export function reading(options) {
  const opened = open(options);
  const reader = read(opened);
  accept(opened, 0);
  opened.says(message(1));
  assert.deepEqual(reader.got.splice(0), ['news 1']);
  return Object.assign(opened, { reader });
}

export class FakeStorage {
  items = new Map();
  getItem = (name) => this.items.get(name) ?? null;
  setItem = (name, value) => this.items.set(name, value);
  removeItem = (name) => this.items.delete(name);
}
