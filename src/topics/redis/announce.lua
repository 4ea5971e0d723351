-- A node says that it lives, and how it is. Returns whether it is known, and the id of the entry in the log. One that
-- is not has just come, or was taken for dead meanwhile, or Redis has lost what it knew: then it is entered under this
-- generation, and tells its members anew.
local prefix, node, generation, next_generation, about = unpack(ARGV)
local nodes = prefix .. ':nodes'
local is_known = redis.call('HGET', nodes, node) == generation
-- For nodes that begin later, and do not read it in the log.
redis.call('HSET', prefix .. ':about', node, about)
if not is_known then
  generation = next_generation
  redis.call('HSET', nodes, node, generation)
  redis.call('DEL', prefix .. ':members:' .. node)
end
return {is_known and 1 or 0, log(prefix, 'node', node, generation, '', about, decimal(milliseconds()))}
