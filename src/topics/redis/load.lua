-- Reads the histories of some topics: of each the offset of its last message, and all that is kept.
local prefix = ARGV[1]
local found = {}
for at = 2, #ARGV do
  local last = redis.call('HGET', prefix .. ':topic:' .. ARGV[at], 'last')
  if last then
    found[#found + 1] = {ARGV[at], last, redis.call('XRANGE', prefix .. ':history:' .. ARGV[at], '-', '+')}
  end
end
return found
