// heartwire.js: a WebSocket that knows when its server is gone, and comes back.
//
//     import { HeartSocket } from '/heartwire.js';
//     const socket = new HeartSocket('ws://localhost:9001/');
//     socket.onmessage = (event) => console.log(event.data);
//
// And one that subscribes to topics, and misses nothing while it is away:
//
//     import { Topics } from '/heartwire.js';
//     const topics = new Topics('ws://localhost:9001/');
//     topics.subscribe('news', ({ data }) => console.log(data));
//
// A page can neither send a Ping frame nor see one, so the heartbeat is text: `ping next=<milliseconds>`, answered by
// `pong`, agreed upon by the subprotocol heartwire.v1. The server's first message tells its settings. None of this
// reaches the page's listeners.
//
// Heart and Backoff are pure: no clock, no timers, the time is passed in. All durations are in milliseconds, at least
// 1; longer ones than a browser's timers can wait (24 days) are as good as never, and are cut to that.

/** The subprotocol by which a server says that it answers heartbeats in text. */
export const PROTOCOL = 'heartwire.v1';

/** The subprotocol of topics. It has the same heartbeat. */
export const TOPICS_PROTOCOL = 'heartwire.topics.v1';

const hasHeartbeat = (protocol) => protocol === PROTOCOL || protocol === TOPICS_PROTOCOL;

const DEFAULTS = { interval: 20_000, timeout: 10_000, maxMissed: 3, probeTimeout: 5_000, serverPatience: Infinity };

/** How rarely timers of a hidden page may fire: browsers let them once a minute. */
const HIDDEN_INTERVAL = 60_000;

/** What `setTimeout` can wait. It takes what is longer for 0. */
const LONGEST = 2 ** 31 - 1;

/**
 * When to send a heartbeat, what counts as a miss, and when the server is dead. `judge` is called when `deadline` has
 * come and whenever something has arrived; calling it too often is harmless.
 *
 * It is given all that a page can know of its line, as one value, the evidence:
 * - `received`: messages that have arrived, in all. A page does not see a message of which only a part has arrived.
 * - `taken`: bytes that the browser has passed on, in all. What then waits in the system's buffers is not seen.
 * - `unsent`: bytes that still wait in the browser.
 * - `heldUp`: by how much this look is later than was asked for, because timers were held back, the page was busy or
 *   frozen, or the machine slept.
 * - `slept`: how much of that the machine is known to have slept.
 */
export class Heart {
  #policy;
  /** When the next beat is due. */
  #nextPing;
  #pingOwed = false;
  /** How much must be taken before the newest ping has left the browser; `null` if it has. */
  #pingLeavesAt = null;
  /** The miss clock: until when something must arrive. It runs from a ping's leaving to the next sign of life. */
  #lifeDue = null;
  /** The stall clock: since when data waits and none of it is taken. */
  #stalledSince = 0;
  /** What was seen at the last look, and when that was. */
  #seen = { received: 0, taken: 0, unsent: 0 };
  #lookedAt;
  #heardAt;
  /** Within this silence we were held up, and have asked afresh. */
  #wasExcused = false;
  /** The machine slept for longer than the server waits for a peer. */
  #isForsaken = false;
  #isProbing = false;
  /** Pings that no pong has answered yet: when they were sent, and whether their answer can be told. */
  #unanswered = [];
  /** Until when a pong may answer a ping that is no longer listed. */
  #straysUntil = -Infinity;

  /** Misses in a row. */
  missed = 0;

  /** Round-trip times, smoothed as in RFC 6298; `null` before the first clear answer. */
  roundTrip = null;

  constructor(policy, now) {
    this.#lookedAt = now;
    this.#heardAt = now;
    this.setPolicy(policy, now);
  }

  get policy() {
    return this.#policy;
  }

  /** Changes the policy. The beat starts afresh, without misses. */
  setPolicy(policy, now) {
    this.#policy = { ...DEFAULTS, ...checkedPolicy(policy) };
    this.#nextPing = now + this.#policy.interval;
    this.#pingOwed = false;
    this.#isProbing = false;
    this.#forgetSilence();
  }

  /** When to judge next, unless something arrives. */
  get deadline() {
    // While an answer is due we look more often, to see what is taken and when we are held up ourselves.
    const isWatching = this.#lifeDue !== null || this.#pingLeavesAt !== null;
    const tick = isWatching ? this.#lookedAt + this.#policy.timeout / 4 : Infinity;
    return Math.min(this.#nextPing, this.#lifeDue ?? Infinity, tick);
  }

  /** Whether the line is in doubt: it was probed, or quiet while we were held up, and nothing has come since. */
  get isProbing() {
    return this.#isProbing;
  }

  /** Whether nothing was heard for longer than a beating heart allows. */
  isQuiet(now) {
    return now - this.#heardAt > this.#policy.interval + this.#policy.timeout;
  }

  /** Doubts the line: a ping is to leave at once. The line is no sooner dead than after any other ping. */
  probe() {
    this.#pingOwed = true;
    this.#isProbing = true;
  }

  /** A ping is to leave at once, for what it announces. */
  beat() {
    this.#pingOwed = true;
  }

  /**
   * What is to be done: `ping` (then `pingSent`), `missed` (one more; judge again), `dead` (nothing arrives), `stalled`
   * (dead, for nothing is taken either), or `wait` until the deadline. What has arrived must have been counted before.
   */
  judge(now, evidence) {
    const { interval, timeout, maxMissed, probeTimeout, serverPatience } = this.#policy;
    const { received, taken, unsent, heldUp = 0, slept = 0 } = evidence;
    const before = this.#seen;
    this.#seen = evidence;
    this.#lookedAt = now;
    const hasArrived = received > before.received;
    const isTaken = taken > before.taken;
    const stillWaits = before.unsent > 0 && unsent > 0;

    if (hasArrived) {
      this.#heardAt = now;
      this.#isProbing = false;
      this.#forgetSilence();
    }
    if (hasArrived || isTaken || !stillWaits) this.#stalledSince = now;

    // We were held up, and do not know how old the messages are that lay there to be read. So we ask afresh, but once
    // in a silence: timers that are always late would hide a death for ever.
    if (heldUp > timeout / 4 && !this.#wasExcused) {
      this.#wasExcused = true;
      this.#isForsaken = slept > serverPatience;
      this.#lifeDue = null;
      this.#stalledSince = now;
      this.#pingOwed = true;
      this.#isProbing ||= this.isQuiet(now + slept);
    }

    // The line is slow, and the ping may still be behind what it carries: silence says nothing.
    if (this.#lifeDue !== null && stillWaits && isTaken) this.#lifeDue = now + timeout;
    if (this.#pingLeavesAt !== null && taken >= this.#pingLeavesAt) {
      this.#pingLeavesAt = null;
      this.#startMissClock(now);
    }
    const longestStall = this.#isForsaken ? probeTimeout : timeout * maxMissed;
    if (stillWaits && now - this.#stalledSince >= longestStall) return 'stalled';

    if (this.#lifeDue !== null && this.#lifeDue <= now) {
      this.#lifeDue = null;
      this.#pingOwed = true;
      this.missed += 1;
      return this.#isForsaken || this.missed >= maxMissed ? 'dead' : 'missed';
    }
    if (this.#nextPing <= now) {
      this.#pingOwed = true;
      // Beats that were slept through are skipped.
      this.#nextPing = now + interval - ((now - this.#nextPing) % interval);
    }
    // One ping that waits behind data is enough.
    return this.#pingOwed && this.#pingLeavesAt === null ? 'ping' : 'wait';
  }

  /** The ping asked for was handed to the browser, behind what was unsent when it was asked for. */
  pingSent(now) {
    const { taken, unsent } = this.#seen;
    const { timeout, maxMissed } = this.#policy;
    this.#pingOwed = false;
    // For what is older no answer of its own comes any more.
    this.#unanswered = this.#unanswered.filter(({ sentAt }) => now - sentAt < timeout * maxMissed);
    const isClear = this.#unanswered.length === 0 && unsent === 0 && now >= this.#straysUntil;
    this.#unanswered.push({ sentAt: now, isClear });
    if (unsent > 0) this.#pingLeavesAt = taken + unsent;
    else this.#startMissClock(now);
  }

  /** A pong arrived. Returns the round-trip time, or `null` if it cannot be told which ping it answers. */
  pong(now) {
    if (this.#unanswered.length === 0) return null;
    const [{ sentAt, isClear }, ...others] = this.#unanswered;
    // A server that was behind answers several pings by one pong. Another may follow, but takes no longer than this.
    // Where every round trip is longer than the interval, answers cannot be told apart, and samples may be too short.
    this.#unanswered = [];
    if (others.length > 0) this.#straysUntil = now + (now - sentAt);
    if (others.length > 0 || !isClear) return null;
    this.#sample(now - sentAt);
    return now - sentAt;
  }

  #forgetSilence() {
    this.#lifeDue = null;
    this.#wasExcused = false;
    this.#isForsaken = false;
    this.missed = 0;
  }

  #startMissClock(now) {
    const { timeout, probeTimeout } = this.#policy;
    this.#lifeDue ??= now + (this.#isForsaken ? Math.min(probeTimeout, timeout) : timeout);
  }

  #sample(last) {
    const before = this.roundTrip;
    this.roundTrip = before
      ? {
          last,
          smoothed: (before.smoothed * 7 + last) / 8,
          variation: (before.variation * 3 + Math.abs(before.smoothed - last)) / 4,
          min: Math.min(before.min, last),
          samples: before.samples + 1,
        }
      : { last, smoothed: last, variation: last / 2, min: last, samples: 1 };
  }
}

/** How long a connection has to last for the page to come back at once when its server asks for that. */
const SETTLED = 1_000;

/** How long to wait before the next attempt: exponential backoff with full jitter. */
export class Backoff {
  #first;
  #longest;
  #stableAfter;
  #failures = 0;
  #wasSettled = false;

  constructor({ first = 500, longest = 30_000, stableAfter = 10_000 } = {}) {
    this.#first = checkedDuration('first', first, 0);
    this.#longest = checkedDuration('longest', longest, 0);
    this.#stableAfter = checkedDuration('stableAfter', stableAfter, 0);
  }

  /** A connection was open for so long. One that was dropped at once is no success. */
  wasOpenFor(age) {
    this.#wasSettled = age >= SETTLED;
    if (age >= this.#stableAfter) this.#failures = 0;
  }

  /**
   * `random` is even between 0 and 1. A server that closed with 1012 or 1013 wants to be left alone for a while, unless
   * it says that it sends its clients away one after another. That is no failure; but after a connection that was short
   * nobody comes back at once, or a server could send us away for ever.
   */
  nextDelay(code, random, reason = '') {
    const isAtOnce = code === 1012 && reason.endsWith('reconnect at once');
    const wasSettled = this.#wasSettled;
    this.#wasSettled = false;
    if (isAtOnce && wasSettled) return 0;
    const limit = Math.min(this.#first * 2 ** Math.min(this.#failures, 31), this.#longest);
    this.#failures += 1;
    if (isAtOnce) return limit * random;
    return code === 1012 || code === 1013 ? 5_000 + 25_000 * random : limit * random;
  }
}

/** Messages that wait for a connection, or for it to show that it lives. */
class Outbox {
  #messages = [];
  bytes = 0;

  get isEmpty() {
    return this.#messages.length === 0;
  }

  /** Keeps a copy: whose bytes they are may go on to use them. */
  push(message) {
    const data = copyOf(message);
    const size = sizeOf(data);
    this.#messages.push({ data, size });
    this.bytes += size;
  }

  /** Oldest first. If `send` throws, the message stays, and those after it. */
  empty(send) {
    while (!this.isEmpty) {
      send(this.#messages[0].data);
      this.bytes -= this.#messages.shift().size;
    }
  }

  /** Keeps the oldest, as far as there is room. Returns how many it does not keep. */
  trim(room) {
    const before = this.#messages.length;
    const kept = this.#messages.findIndex(({ size }) => (room -= size) < 0);
    if (kept === -1) return 0;
    for (const { size } of this.#messages.splice(kept)) this.bytes -= size;
    return before - kept;
  }
}

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

/** Codes that would come up again: one end finds the other's messages wrong. */
const isHopeless = (code) => code === 1002 || code === 1003 || (code >= 1007 && code <= 1010);

/** The page and its clock. Tests bring their own. */
const browser = () => ({
  WebSocket: globalThis.WebSocket,
  window: globalThis.window,
  document: globalThis.document,
  now: () => performance.now(),
  wallClock: () => Date.now(),
  setTimeout: (callback, delay) => setTimeout(callback, delay),
  clearTimeout: (timer) => clearTimeout(timer),
  random: Math.random,
  reportError: (error) => (globalThis.reportError ?? console.error)(error),
});

const DEFAULT_OPTIONS = {
  heartbeat: 'auto',
  reconnect: true,
  connectTimeout: 10_000,
  closeTimeout: 5_000,
  outboxSize: 0,
  closeOnPagehide: true,
};

/** A WebSocket with a heartbeat that reconnects. See heartwire.d.ts for what there is beyond a WebSocket. */
export class HeartSocket extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSING = CLOSING;
  static CLOSED = CLOSED;

  #url;
  #protocols;
  #options;
  #environment;
  #backoff;
  #readyState = CONNECTING;
  #binaryType = 'blob';

  /** The connection, or the one attempt at it. */
  #socket = null;
  #heart = null;
  #openedAt = null;
  /** The server has agreed to heartwire.v1 when it was last offered. */
  #knowsServer = false;

  /** Of this connection: messages received, and bytes handed to the browser. */
  #received = 0;
  #handedOver = 0;
  /** When the heart is to be asked next, and by how much the wall clock was ahead when it was asked last. */
  #lookDue = Infinity;
  #wallLead = 0;

  #outbox = new Outbox();
  /** The page was left, and may be shown again. */
  #isSuspended = false;

  #timers = {};
  #pageListeners = [];

  /** What the server told of itself; `null` before, and with other servers. */
  settings = null;

  constructor(url, protocols = [], options = {}) {
    super();
    this.#url = url;
    this.#protocols = [protocols].flat();
    this.#options = checkedOptions(options);
    this.#environment = options.environment ?? browser();
    this.#backoff = new Backoff(this.#options.reconnect);
    // What is wrong with the URL is thrown, as by a WebSocket.
    this.#dial();
    this.#listenToPage();
  }

  // What a WebSocket has.

  get url() {
    return this.#socket?.url ?? String(typeof this.#url === 'function' ? '' : this.#url);
  }

  get protocol() {
    return this.#socket?.protocol ?? '';
  }

  get extensions() {
    return this.#socket?.extensions ?? '';
  }

  /** CONNECTING also between connections. */
  get readyState() {
    return this.#readyState;
  }

  get bufferedAmount() {
    return this.#outbox.bytes + (this.#socket?.bufferedAmount ?? 0);
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    this.#binaryType = type;
    if (this.#socket) this.#socket.binaryType = type;
  }

  send(data) {
    // Into a line that may be dead nothing is sent before it has shown life.
    if (this.#readyState === OPEN && this.#heart?.isQuiet(this.#now() + this.#slept)) this.probe();
    if (this.#readyState === CONNECTING) {
      if (this.#outbox.bytes + sizeOf(data) > this.#options.outboxSize) {
        throw new DOMException('There is no connection, and no room in the outbox.', 'InvalidStateError');
      }
      this.#outbox.push(data);
    } else if (this.#readyState === OPEN) {
      if (this.#mayTransmit && this.#outbox.isEmpty) this.#transmit(data);
      else this.#outbox.push(data);
    }
  }

  close(code, reason = '') {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(`The close code ${code} is neither 1000 nor within 3000 to 4999.`, 'InvalidAccessError');
    }
    if (sizeOf(reason) > 123) throw new DOMException('The close reason is longer than 123 bytes.', 'SyntaxError');
    if (this.#readyState === CLOSING || this.#readyState === CLOSED) return;
    this.#readyState = CLOSING;
    this.#ignorePage();
    this.#clear('retry');
    this.#clear('beat');
    if (!this.#socket) return this.#ended({ code: code ?? 1005, reason, wasClean: true });
    // A dead line would not answer.
    this.#start('close', this.#options.closeTimeout, () => this.#lost({ code: 1006, reason: 'no answer to Close' }));
    if (code === undefined) this.#socket.close();
    else this.#socket.close(code, reason);
  }

  // What a WebSocket lacks.

  /** Round-trip times of this connection's heartbeats; `null` before the first. */
  get roundTrip() {
    return this.#heart?.roundTrip ?? null;
  }

  /** Heartbeats in a row without a sign of life. */
  get missed() {
    return this.#heart?.missed ?? 0;
  }

  /** The heartbeat in force; `null` without one. */
  get heartbeat() {
    return this.#heart?.policy ?? null;
  }

  /** Asks at once whether an open line lives; a lost one is dialed again now. */
  probe() {
    if (this.#timers.retry !== undefined) {
      this.#dialAgain();
    } else if (this.#heart && this.#readyState === OPEN) {
      if (!this.#heart.isProbing) this.#heart.probe();
      this.#beat();
    }
  }

  // Connecting.

  #dial(offers = this.#options.heartbeat === 'auto' && !this.#protocols.includes(TOPICS_PROTOCOL)) {
    const { WebSocket } = this.#environment;
    const url = typeof this.#url === 'function' ? this.#url() : this.#url;
    const socket = new WebSocket(url, offers ? [...this.#protocols, PROTOCOL] : this.#protocols);
    socket.binaryType = this.#binaryType;
    // A browser fails the handshake of a server that does not know what was offered, and does not say why it failed.
    const mayDoWithout = () => offers && this.#readyState === CONNECTING;
    socket.onopen = () => this.#opened(offers);
    socket.onmessage = (event) => this.#arrived(event);
    socket.onerror = () => mayDoWithout() || this.dispatchEvent(new Event('error'));
    socket.onclose = ({ code, reason, wasClean }) => {
      if (mayDoWithout()) this.#dialAgain(false);
      else this.#lost({ code, reason, wasClean });
    };
    this.#socket = socket;
    this.#start('connect', this.#options.connectTimeout, () => {
      this.dispatchEvent(new Event('error'));
      // A listener may have closed.
      if (this.#socket === socket) this.#lost({ code: 1006, reason: 'not connected in time' });
    });
  }

  #dialAgain(offers) {
    this.#clear('retry');
    try {
      this.#dial(offers);
    } catch {
      // A function that gives URLs may fail now and not later.
      this.dispatchEvent(new Event('error'));
      this.#lost({ code: 1006, reason: 'no URL' });
    }
  }

  #opened(offers) {
    this.#clear('connect');
    // Closed by the page in the meantime: the socket is closing too.
    if (this.#readyState !== CONNECTING) return;
    const agrees = hasHeartbeat(this.#socket.protocol);
    if (!offers && this.#knowsServer) {
      // It came back between the two attempts, or has changed: offered once more, and then taken as it is.
      this.#knowsServer = false;
      this.#hangUp('to offer heartwire.v1');
      return this.#dialAgain();
    }
    this.#knowsServer ||= offers && agrees;
    this.#readyState = OPEN;
    this.#openedAt = this.#now();
    this.#received = 0;
    this.#handedOver = 0;
    const { heartbeat } = this.#options;
    if (heartbeat === 'plain' || (heartbeat === 'auto' && agrees)) {
      this.#heart = new Heart(this.#policy(), this.#now());
      this.#wallLead = this.#clockLead;
      this.#awaitBeat();
    }
    // What waited leaves before what listeners send.
    this.#emptyOutbox();
    this.dispatchEvent(new Event('open'));
  }

  /** Whether what is sent now has a chance to arrive. A socket that is closing drops it without a word. */
  get #mayTransmit() {
    return this.#readyState === OPEN && this.#socket.readyState === OPEN && !this.#heart?.isProbing;
  }

  #transmit(data) {
    const before = this.#socket.bufferedAmount;
    this.#socket.send(data);
    this.#handedOver += this.#socket.bufferedAmount - before;
  }

  #emptyOutbox() {
    if (!this.#mayTransmit) return;
    try {
      this.#outbox.empty((data) => this.#transmit(data));
    } catch (error) {
      this.dispatchEvent(Object.assign(new Event('error'), { error }));
    }
  }

  // The heartbeat.

  /** The page's own wishes, else what the server keeps, else the defaults. */
  #policy() {
    const { interval, timeout, maxMissed, probeTimeout } = this.#options;
    const told = usable(this.settings ?? {});
    // A server that waits for our beat must get it in good time.
    const pace = told.expect ? Math.min(told.expect / 2, DEFAULTS.interval) : told.interval;
    const policy = {
      interval: interval ?? Math.max(pace ?? DEFAULTS.interval, 1),
      timeout: timeout ?? told.timeout ?? DEFAULTS.timeout,
      maxMissed: maxMissed ?? told.max_missed ?? DEFAULTS.maxMissed,
    };
    return {
      ...policy,
      probeTimeout: probeTimeout ?? Math.min(DEFAULTS.probeTimeout, policy.timeout),
      serverPatience: patienceOf(told),
    };
  }

  #arrived(event) {
    const isFirst = this.#received === 0;
    this.#received += 1;
    if (this.#heart) {
      const isPong = event.data === 'pong';
      const roundTrip = isPong ? this.#heart.pong(this.#now()) : null;
      if (this.#readyState === OPEN) {
        this.#beat();
        this.#emptyOutbox();
      }
      if (isPong) {
        this.dispatchEvent(Object.assign(new Event('beat'), { roundTrip }));
        return;
      }
      if (isFirst && hasHeartbeat(this.#socket.protocol) && this.#learn(event.data)) return;
    }
    const { data, origin } = event;
    this.dispatchEvent(new MessageEvent('message', { data, origin }));
  }

  /** The server's first words. Whether they were its settings. */
  #learn(data) {
    if (typeof data !== 'string' || !data.startsWith('heartwire {')) return false;
    try {
      this.settings = JSON.parse(data.slice('heartwire '.length));
    } catch {
      return false;
    }
    this.#heart.setPolicy(this.#policy(), this.#now());
    this.#awaitBeat();
    this.dispatchEvent(new Event('settings'));
    return true;
  }

  #awaitBeat() {
    if (this.#readyState !== OPEN) return;
    const { deadline } = this.#heart;
    if (this.#timers.beat !== undefined && this.#lookDue === deadline) return;
    this.#lookDue = deadline;
    // Messages that have come already may stand behind the timer in the page's queue: they are let in first.
    const delay = Math.max(0, deadline - this.#now());
    this.#start('beat', delay, () => this.#start('beat', 0, () => this.#beat()));
  }

  /** All that is known of the line now, as the heart takes it. */
  #evidence() {
    const now = this.#now();
    const unsent = this.#socket.bufferedAmount;
    const slept = this.#slept;
    const heldUp = Math.max(0, now - this.#lookDue) + slept;
    // Each delay is told once.
    this.#lookDue = Math.max(this.#lookDue, now);
    this.#wallLead = this.#clockLead;
    return { received: this.#received, taken: this.#handedOver - unsent, unsent, heldUp, slept };
  }

  /** How long the machine has slept since the last look. Most systems stop the page's clock meanwhile. */
  get #slept() {
    return Math.max(0, this.#clockLead - this.#wallLead);
  }

  get #clockLead() {
    return this.#environment.wallClock() - this.#now();
  }

  /** Does what the heart asks for. */
  #beat() {
    for (;;) {
      const heart = this.#heart;
      const now = this.#now();
      switch (heart.judge(now, this.#evidence())) {
        case 'ping':
          heart.pingSent(now);
          this.#awaitBeat();
          this.#transmit(`ping next=${this.#announcement()}`);
          return;
        case 'missed':
          this.dispatchEvent(Object.assign(new Event('missed'), { missed: heart.missed }));
          // A listener may have closed.
          if (this.#heart !== heart || this.#readyState !== OPEN) return;
          break;
        case 'dead':
          return this.#lost({ code: 1006, reason: 'heartbeat lost' });
        case 'stalled':
          return this.#lost({ code: 1006, reason: 'line stalled' });
        default:
          return this.#awaitBeat();
      }
    }
  }

  /** When the server may expect the next beat. */
  #announcement() {
    const { interval } = this.#heart.policy;
    return Math.round(this.#isHidden ? Math.max(interval, HIDDEN_INTERVAL) : interval);
  }

  // The end of a connection.

  /** The connection, or the attempt at it, is over. Comes back unless it is pointless, or nobody wants to. */
  #lost({ code, reason = '', wasClean = false }) {
    this.#hangUp(reason);
    if (this.#openedAt !== null) this.#backoff.wasOpenFor(this.#now() - this.#openedAt);
    this.#openedAt = null;
    this.#heart = null;
    const wants = this.#readyState !== CLOSING && this.#options.reconnect && !isHopeless(code);
    if (!wants) return this.#ended({ code, reason, wasClean });
    this.#readyState = CONNECTING;
    // What waited for a sign of life waits for the next connection.
    const unsent = this.#outbox.trim(this.#options.outboxSize);
    const retryIn = this.#isSuspended ? null : this.#backoff.nextDelay(code, this.#environment.random(), reason);
    if (retryIn !== null) this.#start('retry', retryIn, () => this.#dialAgain());
    this.#tellClosed({ code, reason, wasClean, willReconnect: true, retryIn, unsent });
  }

  /** Lets go of the socket. A dead line takes its time to close, and we do not wait for it. */
  #hangUp(reason) {
    for (const timer of ['connect', 'beat', 'close']) this.#clear(timer);
    const socket = this.#socket;
    this.#socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onerror = socket.onclose = null;
    if (socket.readyState !== CLOSED) socket.close(4000, reason);
  }

  /** For good. */
  #ended(details) {
    this.#readyState = CLOSED;
    this.#ignorePage();
    this.#tellClosed({ ...details, willReconnect: false, retryIn: null, unsent: this.#outbox.trim(0) });
  }

  #tellClosed(details) {
    this.dispatchEvent(Object.assign(new Event('close'), details));
  }

  // The page.

  get #isHidden() {
    return this.#environment.document?.visibilityState === 'hidden';
  }

  #listenToPage() {
    const { window, document } = this.#environment;
    const listen = (target, type, listener) => {
      target?.addEventListener(type, listener);
      this.#pageListeners.push(() => target?.removeEventListener(type, listener));
    };
    listen(window, 'online', () => this.probe());
    listen(document, 'visibilitychange', () => (this.#isHidden ? this.#hidden() : this.probe()));
    listen(window, 'pageshow', (event) => this.#shown(event));
    if (this.#options.closeOnPagehide) listen(window, 'pagehide', () => this.#left());
  }

  #ignorePage() {
    for (const ignore of this.#pageListeners.splice(0)) ignore();
  }

  /** Tells a server that is led by our beat that it will be slower. */
  #hidden() {
    this.#heart?.beat();
    if (this.#heart) this.#beat();
  }

  /** The page was left: says so to the server, and keeps a page that may come back out of the way of its cache. */
  #left() {
    this.#isSuspended = true;
    this.#clear('retry');
    if (!this.#socket) return;
    if (this.#socket.readyState === OPEN) this.#socket.close(1000, 'page left');
    this.#lost({ code: 1000, reason: 'page left', wasClean: true });
  }

  #shown(event) {
    if (this.#isSuspended) {
      this.#isSuspended = false;
      this.#dialAgain();
    } else if (event.persisted) {
      this.probe();
    }
  }

  // Clock and timers.

  #now() {
    return this.#environment.now();
  }

  #start(name, delay, callback) {
    this.#clear(name);
    this.#timers[name] = this.#environment.setTimeout(() => {
      delete this.#timers[name];
      callback();
    }, delay);
  }

  #clear(name) {
    if (this.#timers[name] === undefined) return;
    this.#environment.clearTimeout(this.#timers[name]);
    delete this.#timers[name];
  }

  static {
    for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSING, CLOSED })) {
      Object.defineProperty(this.prototype, name, { value });
    }
    defineHandlers(this.prototype, ['open', 'message', 'close', 'error', 'beat', 'missed', 'settings']);
  }
}

/** `onopen` and the like. */
function defineHandlers(prototype, types) {
  for (const type of types) {
    const handlers = new WeakMap();
    Object.defineProperty(prototype, `on${type}`, {
      get() {
        return handlers.get(this) ?? null;
      },
      set(handler) {
        if (handlers.has(this)) this.removeEventListener(type, handlers.get(this));
        handlers.delete(this);
        if (typeof handler !== 'function') return;
        handlers.set(this, handler);
        this.addEventListener(type, handler);
      },
    });
  }
}

// Topics: see docs/topics-protocol.md for what travels.

/** For how long a server knows a key again, unless it is set up otherwise, less what a request may take. */
const KEY_WINDOW = 4 * 60_000;

/** So many messages are sent without a reply: after a lost connection the server has to know the keys of all of them. */
const MOST_UNDER_WAY = 256;

/** Bytes of a topic's name. */
const LONGEST_TOPIC = 256;

/** Something is wrong with a topic, a request, or what the server sent. See heartwire.d.ts for the codes. */
export class TopicsError extends Error {
  name = 'TopicsError';

  constructor(code, message, topic = null) {
    super(message);
    this.code = code;
    this.topic = topic;
  }

  /** By what the server says of a request or of a topic. */
  static from({ error, reason = error, topic = null }) {
    return new TopicsError(String(error), String(reason), topic);
  }
}

/** In the place of a position: all that the server's history keeps. */
const EARLIEST = 'earliest';

const closedError = (topic) => new TopicsError('closed', 'the topics were closed', topic);

/** `EPOCH:OFFSET`, in the one spelling that servers take; `null` if it is something else. */
function positionFrom(text) {
  const [isPosition, epoch, offset] = /^([0-9a-f]{16}):(0|[1-9]\d{0,15})$/.exec(text) ?? [];
  return isPosition ? { text, epoch, offset: Number(offset) } : null;
}

/** By how many messages `position` is ahead of `other`; NaN if that cannot be told. */
function distance(position, other) {
  return position.epoch === other?.epoch ? position.offset - other.offset : NaN;
}

/** One who has subscribed in the page. */
class Subscriber {
  /** Of the last message that it has taken; `null` until it is known where it begins. */
  position;
  /** Where it begins that has no position: with all that is kept, or with what comes. */
  wantsAll;
  isReady = false;

  constructor(since, callbacks) {
    Object.assign(this, { position: positionFrom(since), wantsAll: since === EARLIEST, ...callbacks });
    this.ready = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
  }

  begin() {
    this.isReady = true;
    this.resolve(this.position.text);
  }
}

/** One topic on the wire, for all in the page who subscribe to it. */
class Feed {
  subscribers = new Set();
  /** The request by which it is subscribed to on this connection; `null` if it has to be. */
  request = null;
  /** The request was accepted: each message follows `position`, or a loss is told. */
  isLive = false;
  /** How far the wire is. Nobody is behind it, so that nobody misses what comes. */
  position = null;
  /** Whether all that is kept was asked for. */
  wantsAll = false;
  /** The members by their names, once a list has come, where presence was asked for. */
  members = null;
  hasPresence = false;

  constructor(topic) {
    this.topic = topic;
  }

  forget() {
    this.request = null;
    this.isLive = false;
  }

  /** Whether the request that was made has all for this subscriber. */
  serves({ position, wantsAll, presence }) {
    const comes = !wantsAll || (this.wantsAll && !this.isLive);
    const isThere = position === null ? comes : distance(position, this.position) >= 0;
    return this.request !== null && isThere && (this.hasPresence || !presence);
  }

  /** What is to be asked for: all, or from the oldest position that somebody has. Others ignore what they have had. */
  entry() {
    this.wantsAll = [...this.subscribers].some(({ position, wantsAll }) => position === null && wantsAll);
    const positions = [...this.subscribers].map(({ position }) => position).filter(Boolean);
    const older = (one, other) => (distance(other, one) < 0 ? other : one);
    this.position = positions.length > 0 && !this.wantsAll ? positions.reduce(older) : null;
    this.hasPresence = [...this.subscribers].some(({ presence }) => presence);
    const entry = { topic: this.topic };
    if (this.wantsAll) entry.since = EARLIEST;
    else if (this.position) entry.since = this.position.text;
    if (this.hasPresence) entry.presence = true;
    return entry;
  }
}

/** Subscribes and publishes, over a HeartSocket. See heartwire.d.ts. */
export class Topics extends EventTarget {
  /** The connection, for its state and its events. */
  socket;

  #environment;
  #token;
  #storage;
  #key;
  /** What goes with this connection; `null` without one. */
  #session = null;
  #feeds = new Map();
  /** Messages to publish that have no reply yet, oldest first, and how many bytes they are. */
  #unpublished = new Set();
  #unpublishedBytes = 0;
  /** How many of them were sent on this connection. */
  #underWay = 0;
  #outboxSize;
  /** Requests of this connection without a reply yet, by their ids. */
  #requests = new Map();
  #lastId = 0;
  /** What has failed is tried again later. */
  #backoff;
  #failedAt = -Infinity;
  #retry;

  constructor(url, options = {}) {
    super();
    const { outboxSize } = checkedOptions({ ...options, outboxSize: options.outboxSize ?? 2 ** 20 });
    this.#outboxSize = outboxSize;
    this.#environment = options.environment ?? browser();
    this.#backoff = new Backoff(options.reconnect);
    this.#token = options.token;
    this.#storage = options.storage ?? null;
    this.#key = options.key ?? 'heartwire:';
    // Requests mean something on their own connection only: those that are worth it are kept here.
    this.socket = new HeartSocket(url, TOPICS_PROTOCOL, { ...options, outboxSize: 0 });
    this.socket.addEventListener('open', () => this.#opened());
    this.socket.addEventListener('message', ({ data }) => this.#arrived(data));
    this.socket.addEventListener('close', ({ willReconnect }) => this.#closed(willReconnect));
  }

  subscribe(topic, handler, { since, onlost, onpresence, presence = onpresence !== undefined } = {}) {
    topic = wellFormed(topic);
    const isKnown = this.#feeds.has(topic);
    const isBegin = (since ?? null) === null || since === EARLIEST || positionFrom(since) !== null;
    if (!isBegin) throw new TopicsError('bad-position', `${since} is neither a position nor "${EARLIEST}"`, topic);
    if (since === undefined && !isKnown) since = positionFrom(this.#stored('getItem', topic))?.text;
    const subscriber = new Subscriber(since, { handler, onlost, onpresence, presence });
    const feeds = this.#feeds;
    const subscription = {
      topic,
      ready: subscriber.ready,
      get position() {
        return subscriber.position?.text ?? null;
      },
      get members() {
        return [...(feeds.get(topic)?.members?.values() ?? [])];
      },
      unsubscribe: () => this.#unsubscribe(topic, subscriber),
    };
    if (this.#isOver) {
      this.#dismiss(subscriber, closedError(topic));
      return subscription;
    }
    // An answer names no topic that is longer, so it could not be told which it is about.
    if (sizeOf(topic) > LONGEST_TOPIC) {
      subscriber.reject(new TopicsError('bad-topic', `the name is longer than ${LONGEST_TOPIC} bytes`, topic));
      return subscription;
    }
    if (!isKnown) feeds.set(topic, new Feed(topic));
    const feed = feeds.get(topic);
    feed.subscribers.add(subscriber);
    if (!feed.serves(subscriber)) this.#request([feed]);
    else if (feed.isLive) this.#join(feed, subscriber);
    return subscription;
  }

  publish(topic, data, { key = randomKey(), timeout = KEY_WINDOW } = {}) {
    return new Promise((resolve, reject) => {
      const body = typeof data === 'string' ? { text: wellFormed(data) } : { base64: encodeBase64(data) };
      const request = { type: 'publish', topic: wellFormed(topic), ...body };
      if (key !== null) request.key = wellFormed(key);
      const { wallClock, setTimeout, clearTimeout } = this.#environment;
      const patience = checkedDuration('timeout', timeout);
      const size = sizeOf(JSON.stringify(request));
      const refuse = (code, reason) => new TopicsError(code, reason, request.topic);
      if (this.#isOver) throw closedError(request.topic);
      if (this.#unpublishedBytes + size > this.#outboxSize) throw refuse('full', 'too much waits to be published');
      const settle = (error, reply) => {
        if (!this.#unpublished.delete(message)) return;
        this.#unpublishedBytes -= size;
        if (this.#requests.delete(message.id)) this.#underWay -= 1;
        clearTimeout(timer);
        if (error) reject(error);
        else resolve({ position: reply.position, here: reply.here });
      };
      const expire = () => settle(refuse('timeout', 'the server has not said that it was published'));
      const timer = setTimeout(() => {
        expire();
        this.#publishNext();
      }, patience);
      // A machine that slept has stopped the timer. Later than this a server does not know the key again.
      const isLate = () => wallClock() >= message.due;
      const message = { request, id: null, isSent: false, isDelayed: false, settle, expire, isLate, due: wallClock() + patience };
      this.#unpublished.add(message);
      this.#unpublishedBytes += size;
      this.#publishNext();
    });
  }

  /** For good. */
  close(code, reason) {
    this.socket.close(code, reason);
  }

  get #isOver() {
    return this.socket.readyState >= CLOSING;
  }

  // A connection: the token first, then what is subscribed to, then what is to be published.

  #opened() {
    const needsToken = this.#token !== undefined;
    this.#session = { isReady: !needsToken, needsToken, isAuthenticating: false };
    this.#proceed();
  }

  /** Does all that can be done now. */
  #proceed() {
    const session = this.#session;
    if (session?.needsToken && !session.isAuthenticating) this.#authenticate(session);
    if (!session?.isReady) return;
    this.#request([...this.#feeds.values()].filter(({ request }) => request === null));
    // The line may be found dead by sending.
    if (this.#session !== session) return;
    for (const message of this.#unpublished) message.isDelayed = false;
    this.#publishNext();
  }

  /** Sends what waits to be published, as far as it may be under way. */
  #publishNext() {
    const session = this.#session;
    if (!session?.isReady) return;
    for (const message of this.#unpublished) {
      if (this.#session !== session || this.#underWay >= MOST_UNDER_WAY) return;
      if (!message.isSent && !message.isDelayed) this.#send(message);
    }
  }

  async #authenticate(session) {
    session.isAuthenticating = true;
    try {
      const token = await (typeof this.#token === 'function' ? this.#token() : this.#token);
      if (session !== this.#session) return;
      await new Promise((resolve, reject) => {
        this.#ask({ type: 'authenticate', token }, 'authenticated', (error) => {
          // Where no tokens are taken, another would not be either: what is allowed is allowed without one.
          const isPointless = error?.code === 'no-tokens';
          if (error && !isPointless) return reject(error);
          Object.assign(session, { isReady: true, needsToken: false });
          if (isPointless) this.#report(error);
          resolve();
        });
      });
      session.isAuthenticating = false;
      this.#proceed();
    } catch (error) {
      session.isAuthenticating = false;
      // The next connection fetches a token of its own.
      if (session !== this.#session) return;
      this.#tryLater();
      this.#report(error);
    }
  }

  #tryLater() {
    if (this.#retry !== undefined) return;
    const { now, random, setTimeout } = this.#environment;
    this.#backoff.wasOpenFor(now() - this.#failedAt);
    this.#failedAt = now();
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#proceed();
    }, this.#backoff.nextDelay(undefined, random()));
  }

  #closed(willReconnect) {
    this.#session = null;
    this.#environment.clearTimeout(this.#retry);
    this.#retry = undefined;
    for (const feed of this.#feeds.values()) feed.forget();
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    const lost = new TopicsError('disconnected', 'the connection was lost before the reply');
    for (const { settle } of requests) settle(lost);
    if (willReconnect) return;
    for (const { request, settle } of [...this.#unpublished]) {
      settle(closedError(request.topic));
    }
    for (const { topic, subscribers } of this.#feeds.values()) {
      for (const subscriber of subscribers) this.#dismiss(subscriber, closedError(topic));
    }
    this.#feeds.clear();
  }

  /** `settle` is given an error or the reply, once. */
  #ask(request, answer, settle) {
    const id = (this.#lastId += 1);
    this.#requests.set(id, { answer, settle });
    try {
      this.socket.send(JSON.stringify({ ...request, id }));
    } catch (error) {
      // If the line was found dead just now, `settle` has been told.
      if (this.#session) throw error;
    }
    return id;
  }

  #send(message) {
    if (message.isLate()) return message.expire();
    message.isSent = true;
    this.#underWay += 1;
    message.id = this.#ask(message.request, 'published', (error, reply) => {
      this.#underWay -= 1;
      const mayRepeat = message.request.key !== undefined && ['disconnected', 'unavailable'].includes(error?.code);
      if (!mayRepeat) {
        message.settle(error, reply);
        return this.#publishNext();
      }
      message.isSent = false;
      if (error.code === 'disconnected') return;
      message.isDelayed = true;
      this.#tryLater();
      this.#report(error);
    });
  }

  // What arrives.

  #arrived(data) {
    // The heartbeat's settings, if that is off.
    if (typeof data === 'string' && data.startsWith('heartwire ')) return;
    let frame = null;
    try {
      frame = JSON.parse(data);
    } catch {
      // It is none, as below.
    }
    if (typeof frame !== 'object' || frame === null) return this.#protest('the server sent what is not a JSON object');
    const asked = this.#requests.get(frame.id);
    if (asked && (frame.type === asked.answer || frame.type === 'error')) {
      this.#requests.delete(frame.id);
      if (frame.type === 'error') asked.settle(TopicsError.from(frame));
      else asked.settle(null, frame);
      return;
    }
    const feed = this.#feeds.get(frame.topic);
    switch (frame.type) {
      case 'message':
        return feed && this.#message(feed, frame);
      case 'lost':
        return feed && this.#lost(feed, positionFrom(frame.position));
      case 'presence':
      case 'joined':
      case 'doubted':
      case 'alive':
      case 'gone':
        return feed?.hasPresence && this.#presence(feed, frame);
      case 'expiring':
        // A token that is given once cannot be renewed.
        if (this.#session && typeof this.#token === 'function') this.#session.needsToken = true;
        return this.#proceed();
      case 'error':
        // With an id it is the late reply to a request that was given up.
        if (frame.id !== undefined) return;
        if (feed) this.#failed(feed, TopicsError.from(frame));
        else this.#report(TopicsError.from(frame));
    }
  }

  #message(feed, frame) {
    const position = positionFrom(frame.position);
    if (!position) return this.#protest(`a message has no position, but ${frame.position}`, feed.topic);
    if (frame.only_here === true) {
      // It has no place in the history, and changes no position.
      const data = this.#dataOf(frame);
      for (const { handler } of data === null ? [] : [...feed.subscribers]) {
        this.#call(handler, { topic: feed.topic, position: position.text, data });
      }
      return;
    }
    if (feed.isLive) {
      const step = distance(position, feed.position);
      if (step <= 0) return;
      if (step !== 1) {
        this.#protest(`a message at ${position.text} follows ${feed.position.text}`, feed.topic);
        return this.#askLater(feed);
      }
      feed.position = position;
    }
    // While a request is under way, messages of the one before it come: who can use them has them.
    const takers = [...feed.subscribers].filter((subscriber) => distance(position, subscriber.position) === 1);
    const data = this.#dataOf(frame);
    for (const subscriber of takers) {
      if (!feed.subscribers.has(subscriber)) continue;
      subscriber.position = position;
      if (data !== null) this.#call(subscriber.handler, { topic: feed.topic, position: position.text, data });
    }
    this.#store(feed);
  }

  #dataOf({ topic, text, base64 }) {
    try {
      if (typeof text === 'string') return text;
      if (typeof base64 === 'string') return decodeBase64(base64);
    } catch {
      // It is not base64, as below.
    }
    this.#protest('a message has neither text nor base64', topic);
    return null;
  }

  #lost(feed, position) {
    // What an earlier request has lost, the one that is under way asks for again.
    if (!feed.isLive || !position) return;
    const before = feed.position;
    feed.position = position;
    for (const subscriber of [...feed.subscribers]) {
      const { position: own } = subscriber;
      if (own.text === position.text) continue;
      // Who was ahead of what is lost may have lost nothing.
      if (own.text === before.text) this.#lose(feed, subscriber, position);
      else this.#askLater(feed);
    }
    this.#store(feed);
  }

  #lose(feed, subscriber, position) {
    if (!feed.subscribers.has(subscriber)) return;
    subscriber.position = position;
    this.#call(subscriber.onlost, { topic: feed.topic, position: position.text });
  }

  #presence(feed, { type, members, member, cause, within }) {
    // Each of several servers counts its connections by itself.
    const nameOf = ({ user, connection, node }) => JSON.stringify(user ?? [connection, node]);
    const isMember = (value) => typeof value === 'object' && value !== null;
    let change = null;
    if (type === 'presence' && Array.isArray(members) && members.every(isMember)) {
      feed.members = new Map(members.map((each) => [nameOf(each), each]));
    } else if (type !== 'presence' && feed.members && isMember(member)) {
      change = type === 'gone' ? { type, member, cause, within } : { type, member };
      if (type === 'gone') feed.members.delete(nameOf(member));
      else feed.members.set(nameOf(member), member);
    } else {
      return this.#protest(`"${type}" lacks its members`, feed.topic);
    }
    for (const subscriber of [...feed.subscribers]) this.#tellMembers(feed, subscriber, change);
  }

  #tellMembers(feed, subscriber, change) {
    if (!feed.members || !feed.subscribers.has(subscriber)) return;
    this.#call(subscriber.onpresence, [...feed.members.values()], change);
  }

  // Subscriptions.

  /** Subscribes to topics, in one request. Without a connection, that comes with the next one. */
  #request(feeds) {
    if (!this.#session?.isReady || feeds.length === 0) return;
    const request = { type: 'subscribe', topics: feeds.map((feed) => feed.entry()) };
    for (const feed of feeds) Object.assign(feed, { request, isLive: false });
    this.#ask(request, 'subscribed', (error, reply) => {
      const answers = Array.isArray(reply?.topics) ? reply.topics : [];
      const answerTo = new Map(answers.map((answer) => [answer?.topic, answer]));
      for (const feed of feeds) {
        // Others were asked for again meanwhile, were on a connection that is lost, or nobody wants them any more.
        if (feed.request !== request || this.#feeds.get(feed.topic) !== feed) continue;
        const answer = answerTo.get(feed.topic);
        const position = positionFrom(answer?.position);
        const begin = feed.wantsAll ? positionFrom(answer?.since) : feed.position;
        if (error) this.#failed(feed, error);
        else if (answer?.error) this.#failed(feed, TopicsError.from(answer));
        else if (position && (begin || !feed.wantsAll)) this.#subscribed(feed, position, begin);
        else this.#failed(feed, new TopicsError('protocol', 'the server did not say where the topic is', feed.topic));
      }
    });
  }

  /** `position` is that of the topic. What lies between it and `since`, if anything was asked for, follows. */
  #subscribed(feed, position, since) {
    feed.isLive = true;
    feed.position = since ?? position;
    for (const subscriber of [...feed.subscribers]) {
      subscriber.position ??= subscriber.wantsAll ? since : position;
      // Where several epochs were known, the server was asked for one of them.
      const isOld = (known) => known.epoch !== position.epoch;
      if (since && !isOld(since) && isOld(subscriber.position)) this.#lose(feed, subscriber, position);
      // All that is kept may begin after what somebody has had.
      else if (distance(subscriber.position, since) < 0) this.#lose(feed, subscriber, since);
      if (!subscriber.isReady) subscriber.begin();
    }
    this.#store(feed);
  }

  /** Begins with what comes next, or with what it has asked for and is to come. */
  #join(feed, subscriber) {
    subscriber.position ??= feed.position;
    subscriber.begin();
    queueMicrotask(() => this.#tellMembers(feed, subscriber, null));
  }

  #failed(feed, error) {
    if (error.code === 'unavailable' || error.code === 'protocol') {
      this.#askLater(feed);
      return this.#report(error);
    }
    this.#feeds.delete(feed.topic);
    const subscribers = [...feed.subscribers];
    feed.subscribers.clear();
    for (const { reject } of subscribers) reject(error);
    if (subscribers.some(({ isReady }) => isReady)) this.#report(error);
  }

  #askLater(feed) {
    feed.forget();
    this.#tryLater();
  }

  #unsubscribe(topic, subscriber) {
    const feed = this.#feeds.get(topic);
    if (!feed?.subscribers.delete(subscriber)) return;
    this.#dismiss(subscriber, new TopicsError('closed', 'it was unsubscribed before the server had answered', topic));
    if (feed.subscribers.size > 0) return;
    this.#feeds.delete(topic);
    this.#stored('removeItem', topic);
    if (!this.#session?.isReady) return;
    this.#ask({ type: 'unsubscribe', topics: [topic] }, 'unsubscribed', (error) => {
      if (error && error.code !== 'disconnected') this.#report(error);
    });
  }

  /** Nobody is told what they did themselves, unless they ask. */
  #dismiss(subscriber, error) {
    subscriber.ready.catch(() => {});
    subscriber.reject(error);
  }

  // Where it is kept how far the page is, and who is told what goes wrong.

  /** After the handlers have returned: a page that ends within one gets the message again. */
  #store(feed) {
    if (feed.isLive && this.#feeds.get(feed.topic) === feed) this.#stored('setItem', feed.topic, feed.position.text);
  }

  #stored(method, topic, ...value) {
    try {
      return this.#storage?.[method](this.#key + topic, ...value);
    } catch (error) {
      this.#storage = null;
      this.#report(error);
    }
  }

  /** What a page throws is its own affair, as with any listener. */
  #call(callback, ...given) {
    try {
      callback?.(...given);
    } catch (error) {
      this.#environment.reportError(error);
    }
  }

  #protest(message, topic) {
    this.#report(new TopicsError('protocol', message, topic));
  }

  #report(error) {
    this.dispatchEvent(Object.assign(new Event('error'), { error }));
  }

  static {
    defineHandlers(this.prototype, ['error']);
  }
}

// Checking what is given.

function checkedOptions(options) {
  const checked = { ...DEFAULT_OPTIONS, ...checkedPolicy(options) };
  for (const name of ['connectTimeout', 'closeTimeout']) checked[name] = checkedDuration(name, checked[name]);
  if (!['auto', 'plain', 'off'].includes(checked.heartbeat)) {
    throw new TypeError(`heartbeat must be 'auto', 'plain' or 'off', not ${String(checked.heartbeat)}.`);
  }
  const { outboxSize } = checked;
  if (typeof outboxSize !== 'number' || !(outboxSize >= 0)) {
    throw new RangeError(`outboxSize must be a number of bytes from 0, not ${String(outboxSize)}.`);
  }
  return checked;
}

function checkedDuration(name, value, shortest = 1) {
  if (typeof value !== 'number' || Number.isNaN(value)) {
    throw new TypeError(`${name} must be a number of milliseconds, not ${String(value)}.`);
  }
  if (value < shortest) throw new RangeError(`${name} must be at least ${shortest} ms, not ${value}.`);
  return Math.min(value, LONGEST);
}

function checkedCount(name, value) {
  if (!Number.isInteger(value) || value < 1) {
    throw new RangeError(`${name} must be a whole number from 1, not ${String(value)}.`);
  }
  return value;
}

/** A copy of what is set, with durations no longer than timers can wait. */
function checkedPolicy(policy) {
  const checked = Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
  for (const name of ['interval', 'timeout', 'probeTimeout']) {
    if (name in checked) checked[name] = checkedDuration(name, checked[name]);
  }
  if ('maxMissed' in checked) checkedCount('maxMissed', checked.maxMissed);
  return checked;
}

/** What a server tells of itself, without what makes no sense. */
function usable(settings) {
  const isDuration = (value) => typeof value === 'number' && value >= 1;
  const told = { leader: settings.leader };
  for (const name of ['interval', 'expect', 'timeout']) {
    if (isDuration(settings[name])) told[name] = Math.min(settings[name], LONGEST);
  }
  if (Number.isInteger(settings.max_missed) && settings.max_missed >= 1) told.max_missed = settings.max_missed;
  return told;
}

/** How long a server keeps a peer of which it hears nothing, as far as it has told. */
function patienceOf({ leader, interval, expect, timeout, max_missed: maxMissed }) {
  if (!timeout || !maxMissed) return Infinity;
  if (leader === 'server') return interval + maxMissed * timeout;
  // Announced windows may be as long as we announce while hidden.
  if (leader === 'peer') return maxMissed * (Math.max(expect, HIDDEN_INTERVAL) + timeout);
  return Infinity;
}

/** A message as it is now. What is neither text nor bytes is sent as text. */
function copyOf(data) {
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  if (typeof data?.byteLength === 'number') return data.slice(0);
  // A Blob never changes.
  return typeof data?.arrayBuffer === 'function' ? data : String(data);
}

/** Bytes of a message. */
function sizeOf(data) {
  return data?.byteLength ?? data?.size ?? new TextEncoder().encode(String(data)).length;
}

/** As a WebSocket sends it. What JSON has for half a character no server reads. */
function wellFormed(text) {
  return String(text).replace(/\p{Surrogate}/gu, '\ufffd');
}

function encodeBase64(data) {
  if (!ArrayBuffer.isView(data) && typeof data?.byteLength !== 'number') {
    throw new TypeError(`A message is a string, an ArrayBuffer or a view of one, not ${String(data)}.`);
  }
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  let binary = '';
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/** Pages without TLS have no `randomUUID`. */
function randomKey() {
  return encodeBase64(crypto.getRandomValues(new Uint8Array(16)));
}
