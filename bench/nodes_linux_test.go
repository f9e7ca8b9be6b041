package bench

import (
	"bytes"
	"cmp"
	"strings"
	"testing"
	"time"
)

func init() { groups = append(groups, keptLocksGroup, nodesGroup, leaderGroup) }

// workload is what all systems are asked alike.
type workload struct {
	name            string
	conns, pipeline int
	command         []byte
	answer          string
	writes          bool
}

func value(size int) string { return strings.Repeat("x", size) }

// Keys and values are as short as redis-benchmark's.
var workloads = []workload{
	{"SET", 50, 1, command("SET", "key:000000", value(3)), "+OK\r\n", true},
	{"SET, pipelines of 16", 50, 16, command("SET", "key:000000", value(3)), "+OK\r\n", true},
	{"GET", 50, 1, command("GET", "key:000000"), "$3\r\nxxx\r\n", false},
	{"GET, pipelines of 16", 50, 16, command("GET", "key:000000"), "$3\r\nxxx\r\n", false},
	{"SET, 200 connections", 200, 1, command("SET", "key:000000", value(3)), "+OK\r\n", true},
	{"SET, 200 connections, pipelines of 16", 200, 16, command("SET", "key:000000", value(3)), "+OK\r\n", true},
	{"SET 1 KiB, pipelines of 16", 50, 16, command("SET", "key:000001", value(1024)), "+OK\r\n", true},
}

// load makes the batches. With wait each ends with a WAIT 1, whose answer counts for nothing.
func (w workload) load(wait bool) load {
	l := load{conns: w.conns, commands: w.pipeline,
		request: bytes.Repeat(w.command, w.pipeline), answer: bytes.Repeat([]byte(w.answer), w.pipeline)}
	if wait {
		l.request = append(l.request, command("WAIT", "1", "0")...)
		l.answer = append(l.answer, ":?\r\n"...)
	}
	return l
}

var nodesGroup = group{
	title: "Three nodes",
	unit:  "commands/s",
	note: "Clients of one thread, on TCP, 50 connections where nothing else is said. \"asynchronous\" is a redis-server with " +
		"two replicas that saves nothing; \"always\" has `appendfsync always` on all three, and each batch of SETs ends with " +
		"`WAIT 1`, which waits for a replica to have it, but not for its disk. The nodes have `fsync` on a majority before " +
		"each answer, and reads are verified by a majority. All nine servers and their clients share the cores and the disk.",
	open: func(t *testing.T) []*measure {
		plain := redisTrio(t)
		always := redisTrio(t, "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")
		fleets := map[string]*nodeFleet{}
		names := []string{}
		for i, binary := range holdfasts(t) {
			name := "nodes"
			if i > 0 {
				name = "nodes of " + binary
			}
			names = append(names, name)
			fleets[name] = startNodes(t, binary)
		}
		var rows []*measure
		for _, w := range workloads {
			first := "asynchronous: " + w.name
			row := func(system, of, also string, run func(*testing.T, time.Duration) float64) {
				rows = append(rows, &measure{name: system + ": " + w.name, of: of, also: also, run: run})
			}
			row("asynchronous", "", "", func(t *testing.T, d time.Duration) float64 { return w.load(false).run(t, plain, d) })
			also := ""
			if w.writes {
				row("always", first, "", func(t *testing.T, d time.Duration) float64 { return w.load(true).run(t, always, d) })
				also = "always: " + w.name
			}
			for _, name := range names {
				f := fleets[name]
				row(name, first, also, func(t *testing.T, d time.Duration) float64 {
					leader := f.leader(t)
					spent := f.account(t, leader)
					rate := w.load(false).run(t, leader.clients, d)
					spent(name+": "+w.name, rate*d.Seconds())
					return rate
				})
			}
		}
		return rows
	},
}

// leaderGroup: what clients see when the leader goes.
var leaderGroup = group{
	title: "Three nodes whose leader goes",
	unit:  "ms",
	note: "16 clients write without pause, through any node, and go to another one when they are cut off. \"killed\" is from a " +
		"`kill -9` of the leading node, with which its engine dies, to the first acknowledgement of a write that was sent after it; " +
		"\"handed over\" is the longest that a write waited, tries and all, while leadership was handed on by `holdfast node transfer`.",
	open: func(t *testing.T) []*measure {
		f := startNodes(t, cmp.Or(holdfasts(t)[0]))
		return []*measure{
			{name: "killed: first write", times: 4, run: func(t *testing.T, _ time.Duration) float64 {
				return millis(f.killLeader(t))
			}},
			{name: "handed over: longest wait of a write", times: 4, run: func(t *testing.T, _ time.Duration) float64 {
				return millis(f.handOver(t))
			}},
		}
	},
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
