-- Connections of a node have joined topics, have left them, or are better or worse off: a topic, a connection and what
-- there is to tell, in turn. An empty state is that of a connection that has left, for the cause that follows.
-- Returns whether the node is known. What one that is not has to tell is not told.
local prefix, node, generation = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', prefix .. ':nodes', node) ~= generation then
  return 0
end
local members = prefix .. ':members:' .. node
for at = 4, #ARGV, 4 do
  local topic, connection, state, cause = unpack(ARGV, at, at + 3)
  if state == '' then
    redis.call('HDEL', members, connection .. ' ' .. topic)
  else
    redis.call('HSET', members, connection .. ' ' .. topic, state)
  end
  log(prefix, 'presence', topic, connection, node, state == '' and cause or state, decimal(milliseconds()))
end
return 1
