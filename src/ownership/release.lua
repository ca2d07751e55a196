-- Removes a row that is still the caller's, and leaves its epoch, and hints, for the device's next connection: where
-- Redis' clock is behind what was given out, or a row was lost, the epoch is what keeps the next one above.
--
-- KEYS[1] tg:{tenant/device}:own
-- KEYS[2] tg:{tenant/device}:last
-- ARGV[1] node
-- ARGV[2] incarnation
-- ARGV[3] what must be the same besides: "epoch" or "connection"
-- ARGV[4] its value
-- ARGV[5] boot, or empty: leave only the epoch
-- ARGV[6] the last seq that was acked, or empty
-- ARGV[7] how long that is kept, in seconds
-- ARGV[8] the close code, or empty
-- ARGV[9] who ended it, or empty
--
-- A row that was marked because its node died tells nothing itself: that is noted, with the node.
--
-- Returns 1 where it was removed, 2 where the row is a newer one of the same incarnation, 0 where it is not its at all.
local row = redis.call('HMGET', KEYS[1], 'node', 'incarnation', ARGV[3], 'epoch', 'settled')
local is_mine = row[1] == ARGV[1] and row[2] == ARGV[2]
local removed = is_mine and row[3] == ARGV[4]
local ended = false
if removed then
  ended = row[4]
  redis.call('DEL', KEYS[1])
elseif ARGV[3] == 'epoch' and (not row[4] or tonumber(row[4]) < tonumber(ARGV[4])) then
  -- The row was lost; that its connection ended is not to be.
  ended = ARGV[4]
end
if ended then
  local time = redis.call('TIME')
  local now_ms = string.format('%.0f', math.floor((tonumber(time[1]) * 1000000 + tonumber(time[2])) / 1000))
  if removed and ARGV[5] ~= '' then
    redis.call('HSET', KEYS[2], 'boot', ARGV[5], 'acked', ARGV[6], 'at', now_ms, 'code', ARGV[8], 'initiator', ARGV[9],
      'node', ARGV[1], 'ended', ended)
  elseif removed and row[5] then
    redis.call('HSET', KEYS[2], 'lost_node', ARGV[1], 'lost', ended, 'lost_at', now_ms)
  end
  local known = redis.call('HGET', KEYS[2], 'epoch')
  if not known or tonumber(known) < tonumber(ended) then
    redis.call('HSET', KEYS[2], 'epoch', ended)
  end
  redis.call('EXPIRE', KEYS[2], ARGV[7])
end
if removed then
  return 1
end
if is_mine then
  return 2
end
return 0
