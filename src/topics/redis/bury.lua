-- A node is dead, or has ended in order: its members are gone, for this cause, which is known within so many ms after
-- the fact. Not if it has come back under another generation, and once only: all others find out at about the same time.
-- Returns whether it is told by the log.
local prefix, node, generation, cause = unpack(ARGV)
local nodes = prefix .. ':nodes'
if redis.call('HGET', nodes, node) ~= generation then
  return 0
end
redis.call('HDEL', nodes, node)
redis.call('HDEL', prefix .. ':about', node)
redis.call('DEL', prefix .. ':members:' .. node)
log(prefix, 'node-gone', node, generation, cause, '', decimal(milliseconds()))
return 1
