-- Publishes a message, once for each key: adds it to its topic's history, and to the log.
-- Returns its offset, whether it was published before, and the id and the number of its entry in the log.
local prefix, epoch, topic, kind, payload, key, node, seq = unpack(ARGV, 1, 8)
local most, most_bytes, age = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local window, most_keys = tonumber(ARGV[12]), tonumber(ARGV[13])
local most_topics, idle = tonumber(ARGV[14]), tonumber(ARGV[15])

if redis.call('GET', prefix .. ':epoch') ~= epoch then
  return redis.error_reply('EPOCH the history is another one')
end

-- A node that did not get the answer asks again. Its newest answers are kept, each in the place of an earlier one.
local answers, place = prefix .. ':node:' .. node, decimal(seq % 1024)
local answered = redis.call('HGET', answers, place)
if answered then
  local of, offset, again, id = string.match(answered, '^(%d+) (%d+) (%d) (%S+)$')
  if of == seq then
    return {offset, again, id}
  end
end
local function answer(offset, again, id)
  redis.call('HSET', answers, place, seq .. ' ' .. offset .. ' ' .. again .. ' ' .. id)
  redis.call('PEXPIRE', answers, 600000)
  return {offset, again, id}
end

local about, history = prefix .. ':topic:' .. topic, prefix .. ':history:' .. topic
local keys, order = prefix .. ':keys:' .. topic, prefix .. ':key-order:' .. topic
local last, bytes, at = unpack(redis.call('HMGET', about, 'last', 'bytes', 'at'))
-- A clock that went back counts as one that stands still.
local now = math.max(milliseconds(), tonumber(at or 0))

local known
if key ~= '' then
  known = redis.call('HGET', keys, key)
  local offset, noted = string.match(known or '', '^(%d+) (%d+)$')
  if offset and now - noted < window then
    return answer(offset, '1', '-')
  end
end
if not last then
  if redis.call('ZCARD', prefix .. ':topics') >= most_topics then
    remove_unused(prefix, now, idle)
  end
  if redis.call('ZCARD', prefix .. ':topics') >= most_topics then
    return redis.error_reply('FULL there are as many topics as there may be')
  end
  last, bytes = redis.call('GET', prefix .. ':floor') or 0, 0
end

local offset = decimal(last + 1)
if key ~= '' then
  -- One that is used again after its time keeps no place from before, which would forget it too early.
  if known then
    redis.call('LREM', order, 1, key)
  end
  redis.call('HSET', keys, key, offset .. ' ' .. decimal(now))
  redis.call('RPUSH', order, key)
  while redis.call('LLEN', order) > most_keys do
    redis.call('HDEL', keys, redis.call('LPOP', order))
  end
  redis.call('PEXPIRE', keys, window)
  redis.call('PEXPIRE', order, window)
end
if most > 0 then
  redis.call('XADD', history, offset .. '-0', 'm', payload, 'k', kind, 'a', decimal(now))
  local kept = redis.call('XLEN', history)
  -- A history that was too old as a whole is gone.
  bytes = (kept == 1 and 0 or bytes) + #payload
  while kept > 0 do
    local oldest = redis.call('XRANGE', history, '-', '+', 'COUNT', 1)[1][2]
    if kept <= most and bytes <= most_bytes and now - oldest[6] < age then
      break
    end
    kept, bytes = kept - 1, bytes - #oldest[2]
    redis.call('XTRIM', history, 'MAXLEN', '=', kept)
  end
  redis.call('PEXPIRE', history, age)
end
redis.call('HSET', about, 'last', offset, 'bytes', decimal(bytes), 'at', decimal(now))
redis.call('ZADD', prefix .. ':topics', now, topic)
return answer(offset, '0', log(prefix, 'message', topic, offset, kind, payload, decimal(now)))
