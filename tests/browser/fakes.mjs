// A clock that stands still until it is told to go on, and a WebSocket without a network.

/** Timers and time. */
export class FakeClock {
  time = 1_000;
  /** How far the wall clock is ahead. */
  lead = 1_700_000_000_000;
  #timers = new Map();
  #last = 0;

  now = () => this.time;

  wallClock = () => this.time + this.lead;

  /** The longest that a timer was to wait. */
  longest = 0;

  setTimeout = (callback, delay) => {
    this.longest = Math.max(this.longest, delay);
    this.#timers.set(++this.#last, { at: this.time + delay, callback });
    return this.#last;
  };

  clearTimeout = (id) => this.#timers.delete(id);

  /** The time goes by, and timers fire when they are due. */
  advance(duration) {
    const end = this.time + duration;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end);
      if (due.length === 0) break;
      const [id, { at, callback }] = due.sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      this.#timers.delete(id);
      this.time = Math.max(this.time, at);
      callback();
    }
    this.time = end;
  }

  /** The time jumps, and what was due meanwhile fires afterwards. */
  jump(duration) {
    this.time += duration;
    this.advance(0);
  }

  /** The machine sleeps, and the page's clock with it: only the wall clock goes on. */
  sleep(duration) {
    this.lead += duration;
  }

  get pending() {
    return this.#timers.size;
  }
}

export class FakeWebSocket {
  static all = [];

  readyState = 0;
  bufferedAmount = 0;
  binaryType = 'blob';
  protocol = '';
  extensions = '';
  sent = [];
  closed = null;
  /** Whether what is sent waits until `drain`. */
  isSlow = false;

  constructor(url, protocols) {
    if (String(url).includes(' ')) throw new DOMException('bad URL', 'SyntaxError');
    this.url = String(url);
    this.offered = protocols;
    FakeWebSocket.all.push(this);
  }

  send(data) {
    if (this.readyState !== 1) throw new Error(`sent in state ${this.readyState}`);
    this.sent.push(data);
    if (this.isSlow) this.bufferedAmount += data.length;
  }

  close(code, reason) {
    if (this.readyState >= 2) return;
    this.readyState = 2;
    this.closed = { code, reason };
  }

  // The network's part.

  open(protocol = 'heartwire.v1') {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen?.();
  }

  receive(data) {
    this.onmessage?.({ data, origin: 'ws://fake' });
  }

  drain(bytes) {
    this.bufferedAmount = Math.max(0, this.bufferedAmount - bytes);
  }

  end(code = 1006, reason = '') {
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }
}

/** What a HeartSocket takes for the browser. Chance is always one half. */
export function fakeBrowser() {
  FakeWebSocket.all = [];
  const clock = new FakeClock();
  const window = new EventTarget();
  const thrown = [];
  const document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const environment = {
    WebSocket: FakeWebSocket,
    window,
    document,
    now: clock.now,
    wallClock: clock.wallClock,
    setTimeout: clock.setTimeout,
    clearTimeout: clock.clearTimeout,
    random: () => 0.5,
    reportError: (error) => thrown.push(error),
  };
  return {
    clock,
    environment,
    /** What handlers of the page have thrown. */
    thrown,
    get sockets() {
      return FakeWebSocket.all;
    },
    get socket() {
      return FakeWebSocket.all.at(-1);
    },
    happens: (type, details) => window.dispatchEvent(Object.assign(new Event(type), details)),
    show: (visibilityState) => {
      document.visibilityState = visibilityState;
      document.dispatchEvent(new Event('visibilitychange'));
    },
  };
}
