// A small server of topics without a network, as docs/topics-protocol.md has it: histories that forget, keys, epochs.

import { TOPICS_PROTOCOL } from '../../src/browser/heartwire.js';

export class TopicsServer {
  /** How many messages a history keeps. */
  depth;
  topics = new Map();
  #epochs = 0;

  constructor(depth) {
    this.depth = depth;
    this.forget();
  }

  /** As a crash: other epochs, no history, no keys. */
  forget() {
    this.#epochs += 1;
    this.topics.clear();
  }

  topic(name) {
    if (!this.topics.has(name)) {
      const epoch = `${this.#epochs}`.padStart(16, '0');
      this.topics.set(name, { epoch, last: 0, history: [], keys: new Map(), connections: new Set() });
    }
    return this.topics.get(name);
  }

  publish(name, body, key) {
    const topic = this.topic(name);
    const before = topic.keys.get(key);
    if (before !== undefined) return before;
    topic.last += 1;
    const position = `${topic.epoch}:${topic.last}`;
    topic.history.push({ offset: topic.last, frame: { type: 'message', topic: name, position, ...body } });
    if (topic.history.length > this.depth) topic.history.shift();
    if (key !== undefined) topic.keys.set(key, position);
    for (const connection of topic.connections) connection.down.push(topic.history.at(-1).frame);
    return position;
  }
}

/** One connection of a fake browser. What is under way can be lost in both directions. */
export class Connection {
  down = [];
  #taken = 0;

  constructor(server, socket) {
    Object.assign(this, { server, socket });
    socket.open(TOPICS_PROTOCOL);
  }

  /** One frame of the page arrives. Whether there was one. */
  takes() {
    const text = this.socket.sent[this.#taken];
    if (text === undefined) return false;
    this.#taken += 1;
    if (text.startsWith('{')) this.#answer(JSON.parse(text));
    return true;
  }

  /** One frame arrives in the page. Whether there was one. */
  gives() {
    if (this.down.length === 0) return false;
    this.socket.receive(JSON.stringify(this.down.shift()));
    return true;
  }

  end() {
    for (const { connections } of this.server.topics.values()) connections.delete(this);
    this.socket.end();
  }

  #answer(request) {
    const { id, type } = request;
    if (type === 'publish') {
      const { topic, text, key } = request;
      this.down.push({ type: 'published', id, topic, position: this.server.publish(topic, { text }, key), here: 0 });
    } else if (type === 'unsubscribe') {
      for (const name of request.topics) this.#leaves(name);
      this.down.push({ type: 'unsubscribed', id, topics: request.topics });
    } else {
      const follow = [];
      const topics = request.topics.map(({ topic, since }) => this.#subscribe(topic, since, follow));
      this.down.push({ type: 'subscribed', id, topics }, ...follow);
    }
  }

  /** What was under way of the subscription before is dropped, as a server may. */
  #leaves(name) {
    this.server.topic(name).connections.delete(this);
    this.down = this.down.filter(({ type, topic }) => topic !== name || (type !== 'message' && type !== 'lost'));
  }

  #subscribe(name, since, follow) {
    this.#leaves(name);
    const topic = this.server.topic(name);
    topic.connections.add(this);
    const position = `${topic.epoch}:${topic.last}`;
    if (since === 'earliest') {
      follow.push(...topic.history.map(({ frame }) => frame));
      return { topic: name, position, since: `${topic.epoch}:${topic.last - topic.history.length}` };
    }
    if (since !== undefined) {
      const [epoch, offset] = since.split(':');
      const missed = topic.history.filter((message) => message.offset > Number(offset));
      const isWhole = epoch === topic.epoch && missed.length === topic.last - Number(offset);
      follow.push(...(isWhole ? missed.map(({ frame }) => frame) : [{ type: 'lost', topic: name, position }]));
    }
    return { topic: name, position };
  }
}
