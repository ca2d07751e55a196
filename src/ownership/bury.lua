-- Declares an incarnation dead, so that its devices can be settled without it coming back meanwhile; or declares that
-- they all are.
--
-- KEYS[1] {tg}:nodes
-- ARGV[1] how its member begins: "node,incarnation,"
-- ARGV[2] "dead" or "gone"
-- ARGV[3] for how long its lease must have ended, in milliseconds
--
-- Returns 1 where it is so now, 0 where it is alive, or not for long enough dead, or unknown.
local time = redis.call('TIME')
local now_ms = math.floor((tonumber(time[1]) * 1000000 + tonumber(time[2])) / 1000)
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #members, 2 do
  local text, ends = members[i], tonumber(members[i + 1])
  if string.sub(text, 1, #ARGV[1]) == ARGV[1] then
    local head, state, tail = string.match(text, '^([^,]*,[^,]*,[^,]*,)([^,]*)(,.*)$')
    if not head then
      return 0
    end
    local buried = state == 'dead' or state == 'gone'
    if not buried and ends + tonumber(ARGV[3]) > now_ms then
      return 0
    end
    if state ~= ARGV[2] and state ~= 'gone' then
      redis.call('ZREM', KEYS[1], text)
      redis.call('ZADD', KEYS[1], members[i + 1], head .. ARGV[2] .. tail)
    end
    return 1
  end
end
return 0
