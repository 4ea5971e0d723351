-- A node has connected. It tells the epoch that it knows, if it was connected before, the newest entry of the log that it
-- has read and the newest that it has written, and an epoch of which it has found that it is over or has lost some, if
-- there is one.
-- Returns the epoch, "same" if nothing of what the node knows is gone, "behind" if the log does not reach back as far,
-- or "new" if the history is another one; the id and the number of the log's last entry, Redis' time, and the offset
-- that new topics begin after.
--
-- A Redis that has lost what it once had (a crash before it was written to disk, a replica that was behind when it took
-- over) is found by that: what the node knows is not there. Then the history is another one, for all nodes.
local prefix, proposed, known, read, written, lost = unpack(ARGV)
local key = prefix .. ':log'

local function parts(id)
  local time, number = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(time), tonumber(number)
end

local function is_before(one, other)
  local time, number = parts(one)
  local other_time, other_number = parts(other)
  return time < other_time or (time == other_time and number < other_number)
end

local function last_id()
  if redis.call('EXISTS', key) == 0 then
    return '0-0'
  end
  local about = redis.call('XINFO', 'STREAM', key)
  for at = 1, #about, 2 do
    if about[at] == 'last-generated-id' then
      return about[at + 1]
    end
  end
end

-- Whether an entry that was in the log is there, was let go of with all that are as old, or is lost.
local function whereabouts(id)
  if id == '0-0' or #redis.call('XRANGE', key, id, id) == 1 then
    return 'there'
  end
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if oldest and is_before(id, oldest[1]) and not is_before(last_id(), id) then
    return 'old'
  end
  return 'lost'
end

local function verdict(epoch)
  if epoch == lost then
    return 'lost'
  end
  if epoch ~= known then
    return 'new'
  end
  local where = whereabouts(read)
  if where == 'lost' or whereabouts(written) == 'lost' then
    return 'lost'
  end
  return where == 'old' and 'behind' or 'same'
end

local epoch = redis.call('GET', prefix .. ':epoch')
local found = 'new'
if epoch then
  found = verdict(epoch)
end
if not epoch or found == 'lost' then
  epoch, found = proposed, 'new'
  redis.call('SET', prefix .. ':epoch', epoch)
  -- What is left of the nodes may be as old as the rest. All enter anew.
  for _, node in ipairs(redis.call('HKEYS', prefix .. ':nodes')) do
    redis.call('DEL', prefix .. ':members:' .. node)
  end
  redis.call('DEL', prefix .. ':nodes', prefix .. ':about')
  log(prefix, 'epoch', '', '0', '', epoch, decimal(milliseconds()))
end
local number, floor = redis.call('GET', prefix .. ':log-number') or '0', redis.call('GET', prefix .. ':floor') or '0'
return {epoch, found, last_id(), number, decimal(milliseconds()), floor}
