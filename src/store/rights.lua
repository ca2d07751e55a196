-- Which of the commands this user may not run on which of the keys: asked at the start, so that a right that is missing is
-- known before the first device needs it.
-- ARGV[1]  a key of each pattern, joined by blanks: no KEYS, since nothing is done with them and the user may lack them
-- ARGV[2…] the commands' names
-- Returns  `command key` for each that is refused; nothing where the server cannot tell
local shapes = {
  DEL = 'k', EXISTS = 'k', GET = 'k', HGETALL = 'k', XLEN = 'k', ZCARD = 'k',
  EXPIRE = 'kn', PEXPIRE = 'kn', HDEL = 'kn', HGET = 'kn', HMGET = 'kn', SET = 'kn', XDEL = 'ki', ZREM = 'kn', ZSCORE = 'kn',
  HINCRBY = 'knn', HSET = 'knn', XRANGE = 'kii', ZADD = 'knn', ZRANGE = 'knn', XADD = 'kinn',
  EVAL = 'n1k', EVALSHA = 'n1k', TIME = '', PING = '', WAIT = 'nn',
}
local refused = {}
if not redis.acl_check_cmd then
  return refused
end
for key in string.gmatch(ARGV[1], '%S+') do
  for at = 2, #ARGV do
    local name = ARGV[at]
    local words = {name}
    for kind in string.gmatch(shapes[name], '.') do
      words[#words + 1] = kind == 'k' and key or kind == 'i' and '0-1' or kind == '1' and '1' or '0'
    end
    if not redis.acl_check_cmd(unpack(words)) then
      refused[#refused + 1] = name .. ' ' .. key
    end
  end
end
return refused
