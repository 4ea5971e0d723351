-- A node is dead, or has ended in order: its members are gone, for this cause, which is known within so many ms after
-- the fact. Not if it has come back under another generation.
local prefix, node, generation, cause = unpack(ARGV)
local nodes = prefix .. ':nodes'
local known = redis.call('HGET', nodes, node)
if known and known ~= generation then
  return 0
end
redis.call('HDEL', nodes, node)
redis.call('HDEL', prefix .. ':about', node)
redis.call('DEL', prefix .. ':members:' .. node)
log(prefix, 'node-gone', node, generation, cause, '', decimal(milliseconds()))
return 1
