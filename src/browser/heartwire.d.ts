/** The subprotocol by which a server says that it answers heartbeats in text. */
export const PROTOCOL: 'heartwire.v1';

/**
 * All durations are in milliseconds, and at least 1. Longer ones than timers can wait (2^31 - 1, some 24 days) are cut
 * to that, `Infinity` too. What is no number is a TypeError, what is too small a RangeError.
 */
export interface HeartPolicy {
  /** Time between heartbeats. */
  interval: number;
  /** How long after a heartbeat something must have come in, before that is a miss. */
  timeout: number;
  /**
   * Misses in a row that make the server dead: found within `interval + maxMissed * timeout`. So is a line that takes
   * none of the data that waits, `maxMissed * timeout` after a heartbeat found that.
   */
  maxMissed: number;
  /** How long the line has to show life after the machine slept for longer than the server waits (`serverPatience`). */
  probeTimeout: number;
  /** How long the server waits for a peer that is silent. Known from its settings; until then `Infinity`. */
  serverPatience: number;
}

export interface RoundTrip {
  last: number;
  smoothed: number;
  variation: number;
  min: number;
  samples: number;
}

/** What the server tells of itself. Durations are in milliseconds. */
export interface ServerSettings {
  /** The server's number for this connection. */
  connection: number;
  /** Who beats besides this page: the server by Ping frames, nobody else (it waits for our beat), or nobody at all. */
  leader: 'server' | 'peer' | 'off';
  /** Where the server leads: time between its Pings. */
  interval?: number;
  /** Where the peer leads: how long it may be silent. */
  expect?: number;
  timeout?: number;
  max_missed?: number;
}

export interface HeartSocketOptions extends Partial<Omit<HeartPolicy, 'serverPatience'>> {
  /**
   * `auto` (default): offers the subprotocol heartwire.v1, and beats if the server agrees. A browser fails the
   * handshake of a server that does not know it: an attempt that fails is made once more without the offer. `plain`:
   * offers nothing and beats, for a server with `--text-heartbeat`. `off`: a WebSocket that reconnects, and no more.
   */
  heartbeat?: 'auto' | 'plain' | 'off';
  /** Whether to come back, and how. Default: after up to 500 ms, doubled with each failure up to 30 s. */
  reconnect?: boolean | { first?: number; longest?: number; stableAfter?: number };
  /** How long an attempt may take. Default 10 s. */
  connectTimeout?: number;
  /** How long the closing handshake may take. Default 5 s. */
  closeTimeout?: number;
  /**
   * Bytes to keep while there is no connection, for the next. They are copied, and leave before what is sent at `open`.
   * Default 0: `send` throws, as a WebSocket's does.
   */
  outboxSize?: number;
  /** Whether to close when the page is left. Default true. */
  closeOnPagehide?: boolean;
}

/** The end of a connection, or of an attempt. */
export interface HeartCloseEvent extends Event {
  /** 1006 with a `reason` if it was us who gave up: `heartbeat lost`, `line stalled`, `not connected in time`. */
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
  readonly willReconnect: boolean;
  /** When the next attempt is due; `null` without one, and for a page that was left. */
  readonly retryIn: number | null;
  /** Messages that were waiting and are lost. */
  readonly unsent: number;
}

/** A heartbeat was answered. */
export interface BeatEvent extends Event {
  /** `null` if it cannot be told which heartbeat was answered: several were under way, or one waited behind data. */
  readonly roundTrip: number | null;
}

/** No connection came about; or what waited for one could not be sent, and goes on waiting: then `error` says why. */
export interface HeartErrorEvent extends Event {
  readonly error?: unknown;
}

/** Nothing came within the timeout. */
export interface MissedEvent extends Event {
  readonly missed: number;
}

export interface HeartSocketEventMap {
  open: Event;
  message: MessageEvent;
  error: HeartErrorEvent;
  close: HeartCloseEvent;
  beat: BeatEvent;
  missed: MissedEvent;
  settings: Event;
}

/**
 * A WebSocket with a heartbeat that reconnects. `open` and `close` come with every connection. The texts `pong`,
 * `ping` and what begins with `ping next=` belong to the heartbeat where there is one.
 *
 * A page learns of a message when all of it is there: `maxMissed * timeout` should be longer than the largest message
 * takes to arrive. Nor does it see what the system has taken and not yet sent: that should be less, too.
 */
export class HeartSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** A URL that is given by a function is asked for again at each attempt, for tokens that expire. */
  constructor(url: string | URL | (() => string | URL), protocols?: string | string[], options?: HeartSocketOptions);

  readonly url: string;
  readonly protocol: string;
  readonly extensions: string;
  /** CONNECTING also between connections; CLOSED when there will be no other. */
  readonly readyState: 0 | 1 | 2 | 3;
  /** What waits for a connection included. */
  readonly bufferedAmount: number;
  binaryType: BinaryType;

  /**
   * Into a line that is closing, in doubt, or was quiet for too long nothing goes before it has shown life. What is not
   * sent by the end waits for the next connection, as far as `outboxSize` has room; `close` tells how many do not.
   */
  send(data: string | ArrayBufferLike | ArrayBufferView | Blob): void;
  close(code?: number, reason?: string): void;

  /** What the server told; `null` before, and with other servers. */
  readonly settings: ServerSettings | null;
  /** The heartbeat in force; `null` without one. */
  readonly heartbeat: HeartPolicy | null;
  /** Round-trip times, smoothed as in RFC 6298; `null` before the first. */
  readonly roundTrip: RoundTrip | null;
  /** Heartbeats in a row without a sign of life. */
  readonly missed: number;
  /** Sends a heartbeat now, to find out whether the line is alive, or dials again without waiting. */
  probe(): void;

  onopen: ((this: this, event: Event) => void) | null;
  onmessage: ((this: this, event: MessageEvent) => void) | null;
  onerror: ((this: this, event: HeartErrorEvent) => void) | null;
  onclose: ((this: this, event: HeartCloseEvent) => void) | null;
  onbeat: ((this: this, event: BeatEvent) => void) | null;
  onmissed: ((this: this, event: MissedEvent) => void) | null;
  onsettings: ((this: this, event: Event) => void) | null;

  addEventListener<K extends keyof HeartSocketEventMap>(
    type: K,
    listener: (this: this, event: HeartSocketEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** What a page can know of its line. Totals are of this connection. */
export interface Evidence {
  /** Messages that have arrived. */
  received: number;
  /** Bytes that the browser has passed on. */
  taken: number;
  /** Bytes that still wait in the browser. */
  unsent: number;
  /** By how much this look is later than was asked for, in milliseconds; default 0. */
  heldUp?: number;
  /** How much of that the machine slept; default 0. */
  slept?: number;
}

/** When to beat, what is a miss, and when the server is dead. Pure: instants and evidence are passed in. */
export class Heart {
  constructor(policy: Partial<HeartPolicy>, now: number);
  readonly policy: HeartPolicy;
  readonly deadline: number;
  readonly isProbing: boolean;
  readonly missed: number;
  readonly roundTrip: RoundTrip | null;
  setPolicy(policy: Partial<HeartPolicy>, now: number): void;
  isQuiet(now: number): boolean;
  probe(): void;
  beat(): void;
  judge(now: number, evidence: Evidence): 'wait' | 'ping' | 'missed' | 'dead' | 'stalled';
  pingSent(now: number): void;
  pong(now: number): number | null;
}

/** When to try again: exponential backoff with full jitter. Pure: the random number is passed in. */
export class Backoff {
  constructor(policy?: { first?: number; longest?: number; stableAfter?: number });
  wasOpenFor(age: number): void;
  nextDelay(code: number | undefined, random: number, reason?: string): number;
}
