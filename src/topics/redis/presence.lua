-- Connections of a node have joined topics, have left them, or are better or worse off: a topic, a connection and what
-- there is to tell, in turn. An empty state is that of a connection that has left, for the cause that follows. If that
-- is all there is to tell, and for the first time under this generation, the log says so: whoever was there before and
-- was not told of is there no more.
-- Returns whether the node is known, and the id of the last entry in the log, if there is one. What a node that is not
-- known has to tell is not told.
local prefix, node, generation, is_all = unpack(ARGV, 1, 4)
if redis.call('HGET', prefix .. ':nodes', node) ~= generation then
  return {0, ''}
end
local members, id = prefix .. ':members:' .. node, ''
for at = 5, #ARGV, 4 do
  local topic, connection, state, cause = unpack(ARGV, at, at + 3)
  if state == '' then
    redis.call('HDEL', members, connection .. ' ' .. topic)
  else
    redis.call('HSET', members, connection .. ' ' .. topic, state)
  end
  id = log(prefix, 'presence', topic, connection, node, state == '' and cause or state, decimal(milliseconds()))
end
if is_all == '1' and redis.call('HSETNX', members, 'all', '1') == 1 then
  id = log(prefix, 'node-told', node, generation, '', '', decimal(milliseconds()))
end
return {1, id}
