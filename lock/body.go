package lock

import (
	"strings"

	"github.com/holdfast-dev/holdfast/internal/mutant"
	"github.com/holdfast-dev/holdfast/store"
)

// body is a script; in builds that show that the drill notices, without what they have switched off.
func body(lua string) store.Remote {
	if mutant.MarkLost {
		lua = strings.Replace(lua, "redis.call('SET', mark, num(n))", "", 1)
		lua = strings.Replace(lua, "redis.call('SET', KEYS[1], since, 'GET')", "redis.call('GET', KEYS[1])", 1)
		lua = strings.Replace(lua, "redis.call('SET', KEYS[1], text)", "", 1)
	}
	if mutant.SharesOff {
		lua = strings.Replace(lua, "if used + w <= o then", "if used + w <= o or w < o then", 1)
		lua = strings.Replace(lua, "used + w > of)", "used + w > of and w == of)", 1)
	}
	if mutant.LineOff {
		lua = strings.Replace(lua, "redis.call('ZADD', queue, num(draw()), owner)", "redis.call('ZADD', queue, '0', owner)", 1)
	}
	return store.Lua(lua)
}
