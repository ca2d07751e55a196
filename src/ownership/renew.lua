-- Extends one node's lease and gives the membership as it is then; with an empty member only gives it.
--
-- KEYS[1] {tg}:nodes   ZSET of members, the score is when the lease ends (Redis milliseconds)
-- KEYS[2] {tg}:epoch   the highest epoch anybody reported
-- ARGV[1] my member: node,incarnation,address,state,version,sees-kafka,devices; or empty
-- ARGV[2] how it begins: "node,incarnation,"
-- ARGV[3] the lease, in milliseconds
-- ARGV[4] the highest epoch I know
-- ARGV[5] how long a dead member is kept, in milliseconds
-- ARGV[6] how long one is kept whose devices are settled, in milliseconds
--
-- Returns {"buried"} where this incarnation was declared dead: it never comes back. Else
-- {"ok", now in microseconds, highest epoch, lease ended so many ms ago (negative: it has not) or false, {member, score, ...}}
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local late, others = false, {}
for i = 1, #members, 2 do
  local text, ends = members[i], tonumber(members[i + 1])
  local state = string.match(text, '^[^,]*,[^,]*,[^,]*,([^,]*),')
  if ARGV[1] ~= '' and string.sub(text, 1, #ARGV[2]) == ARGV[2] then
    if state == 'dead' or state == 'gone' then
      return {'buried'}
    end
    late = now_ms - ends
    if text ~= ARGV[1] then
      redis.call('ZREM', KEYS[1], text)
    end
  else
    local keep = tonumber(ARGV[5])
    if state == 'gone' then
      keep = tonumber(ARGV[6])
    end
    if ARGV[1] ~= '' and ends + keep < now_ms then
      redis.call('ZREM', KEYS[1], text)
    else
      others[#others + 1] = text
      others[#others + 1] = string.format('%.0f', ends)
    end
  end
end
local stored = tonumber(redis.call('GET', KEYS[2]) or '0')
local highest = math.max(stored, tonumber(ARGV[4]))
if ARGV[1] ~= '' then
  local ends = string.format('%.0f', now_ms + tonumber(ARGV[3]))
  redis.call('ZADD', KEYS[1], ends, ARGV[1])
  others[#others + 1] = ARGV[1]
  others[#others + 1] = ends
  if highest > stored then
    redis.call('SET', KEYS[2], string.format('%.0f', highest))
  end
end
return {'ok', string.format('%.0f', now_us), string.format('%.0f', highest), late, others}
