/** The subprotocol by which a server says that it answers heartbeats in text. */
export const PROTOCOL: 'heartwire.v1';

/** The subprotocol of topics. It has the same heartbeat. */
export const TOPICS_PROTOCOL: 'heartwire.topics.v1';

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

/** What `TopicsError.code` may be: of the server, as in its protocol, or of this module. Servers may know others. */
export type TopicsErrorCode =
  /** A request is wrong. */
  | 'malformed'
  | 'unknown-type'
  | 'bad-topic'
  /** `since` is neither a position nor `earliest`. */
  | 'bad-position'
  | 'forbidden'
  /** It is none, has expired, or was signed by somebody else. A token is fetched and sent again later. */
  | 'bad-token'
  /** The server takes no tokens. It is used without one. */
  | 'no-tokens'
  | 'too-many'
  /** The server cannot do it now. Subscribing is tried again; publishing is left to the page. */
  | 'unavailable'
  /** The server broke the rules, as by a gap between messages. Whatever it was about is asked for again. */
  | 'protocol'
  /** The connection was lost before the reply, of a message without a key. It may have been published or not. */
  | 'disconnected'
  /** No reply came in time. The message may have been published or not. */
  | 'timeout'
  /** So much waits to be published already that `outboxSize` has no room. */
  | 'full'
  /** By the page, or for good because there is no coming back: see `HeartCloseEvent.willReconnect`. */
  | 'closed';

export class TopicsError extends Error {
  constructor(code: TopicsErrorCode, message: string, topic?: string | null);
  readonly name: 'TopicsError';
  readonly code: TopicsErrorCode | (string & {});
  /** `null` if it is about none. */
  readonly topic: string | null;
}

export interface TopicsOptions extends Omit<HeartSocketOptions, 'outboxSize'> {
  /**
   * Sent on each connection before anything else. A function is asked for each connection, and when a token is about to
   * expire; it is asked again, later, if it fails or the server refuses what it gave. A string cannot be renewed.
   */
  token?: string | (() => string | Promise<string>);
  /**
   * Where to keep how far the page is in each topic, such as `sessionStorage`: a page that is loaded again goes on from
   * there. It is written after the handlers have returned, so a page that ends within one gets that message again.
   * `unsubscribe` removes it. Default: nowhere.
   */
  storage?: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;
  /** What the names in `storage` begin with. The topic follows. Default `heartwire:`. */
  key?: string;
  /** Bytes of messages that may wait to be published, as JSON, with a connection or without. Default 1 MiB. */
  outboxSize?: number;
}

export interface TopicMessage {
  readonly topic: string;
  /** `EPOCH:OFFSET`. */
  readonly position: string;
  /** All who subscribe to the topic are given the same bytes. */
  readonly data: string | Uint8Array;
}

/** A user, or a connection that has no user. Durations are in milliseconds. */
export interface TopicMember {
  readonly user?: string;
  readonly connection?: number;
  /** The server of that connection, if several share the topics. Each counts its connections by itself. */
  readonly node?: string;
  /** `doubted`: `missed` of `max_missed` Pongs did not come. */
  readonly state: 'alive' | 'doubted';
  readonly missed: number;
  readonly max_missed: number;
  /** For how long nothing was heard, when this was sent. */
  readonly silent: number;
  readonly round_trip: number | null;
}

export interface PresenceChange {
  readonly type: 'joined' | 'doubted' | 'alive' | 'gone';
  readonly member: TopicMember;
  /** Why it is gone: `unsubscribed`, or how its last connection ended. */
  readonly cause?: string;
  /** Within what time that is known after the fact. */
  readonly within?: number;
}

export interface SubscribeOptions {
  /**
   * The position of the last message that the page has: those after it follow. `'earliest'`: all that the server's
   * history keeps. `null`: from now on. Default: what `storage` has, else from now on. A second subscription to a topic
   * begins with what arrives next unless it says.
   */
  since?: string | null;
  /** Whether to follow who is subscribed. Default: if there is an `onpresence`. */
  presence?: boolean;
  /** Messages are missing, and nobody knows which: fetch the state anew. What follows comes after `position`. */
  onlost?: (lost: { readonly topic: string; readonly position: string }) => void;
  /** Who is there now. `change` is `null` if it is a list from the server, as after each reconnection. */
  onpresence?: (members: TopicMember[], change: PresenceChange | null) => void;
}

export interface Subscription {
  readonly topic: string;
  /**
   * Fulfilled by the position after which messages follow, once the server has accepted. Rejected by a TopicsError if
   * it refuses, or if this is over before. If it refuses later, as on a new connection, that is an `error` event.
   */
  readonly ready: Promise<string>;
  /** Of the last message that was taken; `null` before it is ready. */
  readonly position: string | null;
  /** Who is there, as far as presence is followed. */
  readonly members: TopicMember[];
  /** No message comes any more, whatever is on its way. */
  unsubscribe(): void;
}

export interface PublishOptions {
  /**
   * 1 to 128 bytes, for each message another. By it a message is published once, though it is sent again because the
   * connection was lost before the reply, or because the server could not take it then (`unavailable`, which is an
   * `error` event too). Default: by chance. `null`: it is not sent again, but rejected as `disconnected` or
   * `unavailable`.
   */
  key?: string | null;
  /**
   * How long to wait for the reply, in milliseconds, connections that are lost and machines that sleep included.
   * Default 4 minutes: servers know a key again for 5, unless they are set up otherwise.
   */
  timeout?: number;
}

/** Something is wrong that no promise tells. `error` is a TopicsError, or what `token` or `storage` has thrown. */
export interface TopicsErrorEvent extends Event {
  readonly error: unknown;
}

/**
 * Subscribes and publishes, over a HeartSocket, by docs/topics-protocol.md. Over all connections the messages of a
 * topic come in order and once, or `onlost` is called. What a handler throws is reported as by any listener, and the
 * message counts as taken. A promise that it returns is not waited for.
 */
export class Topics extends EventTarget {
  /** The arguments are those of a HeartSocket. */
  constructor(url: string | URL | (() => string | URL), options?: TopicsOptions);

  /** The connection, for its state and its events. Topics has only its own: a line that is lost is no error. */
  readonly socket: HeartSocket;

  /** Several subscriptions to a topic are one for the server. Throws a TopicsError if `since` makes no sense. */
  subscribe(topic: string, handler: (message: TopicMessage) => void, options?: SubscribeOptions): Subscription;

  /**
   * Fulfilled when the server has it: `here` is how many connections to that server were subscribed. Rejected by a
   * TopicsError, or by a TypeError or RangeError if an argument makes no sense.
   */
  publish(
    topic: string,
    data: string | ArrayBufferLike | ArrayBufferView,
    options?: PublishOptions,
  ): Promise<{ position: string; here: number }>;

  /** For good. What still waits is rejected as `closed` when the connection is. */
  close(code?: number, reason?: string): void;

  onerror: ((this: this, event: TopicsErrorEvent) => void) | null;

  addEventListener(
    type: 'error',
    listener: (this: this, event: TopicsErrorEvent) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
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
