-- What the scripts share.

-- The bounds of the log: what a node may be late by. One that is later reads the histories instead.
local LOG_ENTRIES, LOG_BYTES = 10000, 16 * 1024 * 1024

-- A number without an exponent.
local function decimal(number)
  return string.format('%.0f', number)
end

-- Redis' time in milliseconds.
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Adds an entry to the log that all nodes read, and lets go of the oldest ones beyond its bounds. Each has the number
-- after that of the one before it, so that a node knows when it has missed some. Returns the entry's id.
local function log(prefix, what, topic, offset, kind, payload, at)
  local key, size = prefix .. ':log', prefix .. ':log-bytes'
  local number = redis.call('INCR', prefix .. ':log-number')
  local id = redis.call('XADD', key, '*', 'm', payload, 'n', number, 'w', what, 't', topic, 'o', offset, 'k', kind,
    'a', at)
  local length, bytes = redis.call('XLEN', key), redis.call('INCRBY', size, #payload)
  while length > LOG_ENTRIES or (bytes > LOG_BYTES and length > 1) do
    local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    length = length - 1
    redis.call('XTRIM', key, 'MAXLEN', '=', length)
    bytes = redis.call('DECRBY', size, #oldest[2][2])
  end
  return id
end

-- Removes some topics that nobody has published to, and nobody has been subscribed to, for so long that they keep
-- nothing. Topics that come anew begin after all offsets that those had, so a position never means two messages.
local function remove_unused(prefix, now, idle)
  local topics = prefix .. ':topics'
  for _, topic in ipairs(redis.call('ZRANGEBYSCORE', topics, '-inf', decimal(now - idle), 'LIMIT', 0, 100)) do
    local last = redis.call('HGET', prefix .. ':topic:' .. topic, 'last') or '0'
    local floor = redis.call('GET', prefix .. ':floor') or '0'
    if tonumber(last) > tonumber(floor) then
      floor = last
      redis.call('SET', prefix .. ':floor', floor)
    end
    for _, kind in ipairs({'topic', 'history', 'keys', 'key-order'}) do
      redis.call('DEL', prefix .. ':' .. kind .. ':' .. topic)
    end
    redis.call('ZREM', topics, topic)
    log(prefix, 'removed', topic, floor, '', '', decimal(now))
  end
end
