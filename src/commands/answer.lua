-- Takes what a device says about a command, on whatever connection it said it.
-- KEYS[1]  the device's queue
-- KEYS[2]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  received, running, succeeded, failed or rejected
-- ARGV[3]  in milliseconds: an older command's entry in the due list may be far off
-- ARGV[4]  1: there is a result
-- ARGV[5]  the result
-- ARGV[6]  1: there are words
-- ARGV[7]  the words
-- Returns  {'changed', '1', far off, command} or {what else}: gone, never_sent, known, late

local state, epoch, attempts, created, place, reason =
  unpack(redis.call('HMGET', KEYS[2], 'state', 'epoch', 'attempts', 'created', 'place', 'reason'))
if not state then
  return {'gone'}
end
if not epoch then
  return {'never_sent'}
end
local function keep(prefix)
  if ARGV[4] == '1' then
    redis.call('HSET', KEYS[2], prefix .. 'result', ARGV[5])
  end
  if ARGV[6] == '1' then
    redis.call('HSET', KEYS[2], prefix .. 'message', ARGV[7])
  end
end
-- Whether a field holds what was said, or neither is there.
local function same(field, said, text)
  local kept = redis.call('HGET', KEYS[2], field)
  if said == '1' then
    return kept == text
  end
  return not kept
end

local ends = TERMINAL[ARGV[2]]
if TERMINAL[state] then
  if not ends then
    return {'known'}
  end
  if state == ARGV[2] and not reason and same('result', ARGV[4], ARGV[5]) and same('message', ARGV[6], ARGV[7]) then
    return {'known'}
  end
  if redis.call('HINCRBY', KEYS[2], 'late_count', 1) == 1 then
    redis.call('HSET', KEYS[2], 'late_status', ARGV[2], 'late_at', digits(now))
    keep('late_')
  end
  return {'late'}
end

if ends then
  keep('')
elseif RANK[state] >= RANK[ARGV[2]] then
  return {'known'}
end
turn(KEYS[2], ARGV[2], attempts, epoch, nil)
if ends then
  leave(KEYS[1], place)
end
local far = '0'
if now - tonumber(created) > tonumber(ARGV[3]) then
  far = '1'
end
return {'changed', '1', far, redis.call('HGETALL', KEYS[2])}
