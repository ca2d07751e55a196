-- Accepts a command, once for its key. Its entry in a due list was made before.
-- KEYS[1]  the device's row
-- KEYS[2]  the device's queue
-- KEYS[3]  the command
-- ARGV[1]  the time in Unix milliseconds; empty: this server's own
-- ARGV[2]  the command's id
-- ARGV[3]  when the entry in the due list was made, Unix milliseconds
-- ARGV[4]  how long after that it may be accepted, in milliseconds
-- ARGV[5]  hash of the body
-- ARGV[6]  time to live in milliseconds
-- ARGV[7]  from when on, Unix milliseconds; empty: from now
-- ARGV[8]  most attempts
-- ARGV[9]  1: takes the place of what is queued under its name
-- ARGV[10] accepted only while the row has this epoch; empty: always
-- ARGV[11] most commands in the queue
-- ARGV[12] name
-- ARGV[13] params
-- ARGV[14] who asks
-- ARGV[15] the caller's key
-- ARGV[16] who waits; empty: nobody
-- Returns  {'accepted', row, command, {replaced commands}} or {'known', row, command} or {why not}:
--          conflict, slow, expired, away, full

local row = row_of(KEYS[1])

local body = redis.call('HGET', KEYS[3], 'body')
if body then
  if body ~= ARGV[5] then
    return {'conflict'}
  end
  return {'known', row, redis.call('HGETALL', KEYS[3])}
end

if now - tonumber(ARGV[3]) > tonumber(ARGV[4]) then
  return {'slow'}
end
local since = now
if ARGV[7] ~= '' then
  since = tonumber(ARGV[7])
end
local deadline = since + tonumber(ARGV[6])
if deadline <= now then
  return {'expired'}
end
if ARGV[10] ~= '' and row[3] ~= ARGV[10] then
  return {'away'}
end

local replaced = {}
if ARGV[9] == '1' then
  local stem = string.sub(KEYS[3], 1, -1 - string.len(ARGV[2]))
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
    local key = stem .. entry[2][2]
    local other = redis.call('HMGET', key, 'state', 'name')
    if other[1] == 'queued' and other[2] == ARGV[12] then
      replaced[#replaced + 1] = {key, entry[1]}
    end
  end
end
if redis.call('XLEN', KEYS[2]) - #replaced >= tonumber(ARGV[11]) then
  return {'full'}
end

local canceled = {}
for i, other in ipairs(replaced) do
  turn(other[1], 'canceled', 0, nil, 'replaced')
  redis.call('XDEL', KEYS[2], other[2])
  canceled[i] = redis.call('HGETALL', other[1])
end

local place = redis.call('XADD', KEYS[2], '*', 'id', ARGV[2])
redis.call('HSET', KEYS[3], 'id', ARGV[2], 'version', 0, 'attempts', 0, 'max', ARGV[8], 'deadline', digits(deadline),
  'created', digits(now), 'name', ARGV[12], 'params', ARGV[13], 'by', ARGV[14], 'key', ARGV[15], 'body', ARGV[5],
  'place', place)
if ARGV[16] ~= '' then
  redis.call('HSET', KEYS[3], 'origin', ARGV[16])
end
turn(KEYS[3], 'queued', 0, nil, nil)
return {'accepted', row, redis.call('HGETALL', KEYS[3]), canceled}
