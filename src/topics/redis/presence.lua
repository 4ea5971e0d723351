-- Connections of a node have joined topics, have left them, or are better or worse off. The others are told by one entry of
-- the log. What is kept of them: a connection and a topic, and its state, in turn. An empty one has left. If that is all
-- there is to tell, and for the first time under this generation, the log says so: whoever was there before and was not
-- told of is there no more.
-- Returns whether the node is known, and the id of the last entry in the log, if there is one. What a node that is not
-- known has to tell is not told.
local prefix, node, generation, is_all, told = unpack(ARGV, 1, 5)
if redis.call('HGET', prefix .. ':nodes', node) ~= generation then
  return {0, ''}
end
local members, id = prefix .. ':members:' .. node, ''
for at = 6, #ARGV, 2 do
  local member, state = ARGV[at], ARGV[at + 1]
  if state == '' then
    redis.call('HDEL', members, member)
  else
    redis.call('HSET', members, member, state)
  end
end
if #ARGV > 5 then
  id = log(prefix, 'presence', '', '0', node, told, decimal(milliseconds()))
end
if is_all == '1' and redis.call('HSETNX', members, 'all', '1') == 1 then
  id = log(prefix, 'node-told', node, generation, '', '', decimal(milliseconds()))
end
return {1, id}
