-- Notes which topics somebody on this node is subscribed to, so that they are not removed.
local topics, now = ARGV[1] .. ':topics', milliseconds()
for at = 2, #ARGV do
  redis.call('ZADD', topics, 'XX', now, ARGV[at])
end
return redis.status_reply('OK')
