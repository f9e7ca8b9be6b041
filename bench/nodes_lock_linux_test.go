package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/store/storetest"
)

// keptLocksGroup: what it costs that a lock is not forgotten.
var keptLocksGroup = group{
	title: "Locks on stores that keep what they said",
	unit:  "acquisitions with release/s",
	note: "This module's locks, 64 callers in one process. A name of their own: nobody else wants it. One name: each acquisition goes to " +
		"another caller than the last one, first come first served. redis-server over a unix socket saves nothing, or every write; three nodes over TCP have " +
		"each write on a majority of disks. All of them share the cores and the disk.",
	open: func(t *testing.T) (rows []*measure) {
		const callersOfAll = 64
		for _, s := range []struct{ name, url string }{
			{"redis-server", storetest.Redis(t).URL()},
			{"redis-server `appendfsync always`", storetest.Redis(t, "--appendonly", "yes", "--appendfsync", "always").URL()},
			{"three nodes", "holdfast://" + startNodes(t, holdfasts(t)[0]).nodes[0].clients},
		} {
			take := oursAt(t, s.url)
			for _, shared := range []bool{false, true} {
				what := ", a name of their own"
				if shared {
					what = ", one name"
				}
				m := &measure{name: s.name + what, of: "redis-server" + what, run: func(t *testing.T, d time.Duration) float64 {
					return callers(t, callersOfAll, d, func(i int, n int64) error {
						name := "one"
						if !shared {
							name = fmt.Sprintf("own-%d-%d", i, n%100)
						}
						release, err := take(context.Background(), name)
						if err == nil {
							release()
						}
						return err
					})
				}}
				if m.name == m.of {
					m.of = ""
				}
				rows = append(rows, m)
			}
		}
		return rows
	},
}
