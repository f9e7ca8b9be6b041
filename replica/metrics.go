package replica

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/holdfast-dev/holdfast/replica/consensus"
	"github.com/holdfast-dev/holdfast/replica/core"
)

// stats are what a node counts of itself, in a registry of its own: several nodes in one process
// do not meet.
type stats struct {
	registry *prometheus.Registry

	sync, verify, commit         prometheus.Histogram
	steps, snapshots             *prometheus.CounterVec
	leaders, engines, leaderless prometheus.Counter
	refusals                     prometheus.Counter
}

func newStats(n *Node) *stats {
	s := &stats{
		registry:   prometheus.NewRegistry(),
		sync:       histogram("log_sync_seconds", "Time to bring entries of the log to this node's disk."),
		verify:     histogram("verify_seconds", "Time in which a majority confirmed that this node leads."),
		commit:     histogram("commit_seconds", "Time from the engine's stream to its commitment; one piece at a time is timed."),
		steps:      counters("steps_total", "What the node's engine was brought to: start, follow, promote, lead and so on.", "step"),
		snapshots:  counters("snapshots_total", "Snapshots made, and those that failed.", "outcome"),
		leaders:    counter("leader_changes_total", "Times that this node has seen a leader come."),
		engines:    counter("engine_starts_total", "Times that the engine was started."),
		leaderless: counter("clients_without_leader_total", "Clients that were told that there is no leader."),
		refusals:   counter("write_refusals_total", "Times that this node began to refuse clients' writes because disks had no room."),
	}
	for do := core.Start; do <= core.Lead; do++ {
		s.steps.WithLabelValues(do.String()) // from the start: the step from nothing to 1 is no increase
	}
	s.snapshots.WithLabelValues("made")
	s.snapshots.WithLabelValues("failed")
	s.registry.MustRegister(s.sync, s.verify, s.commit, s.steps, s.snapshots, s.leaders, s.engines, s.leaderless, s.refusals,
		&view{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return s
}

const prefix = "holdfast_node_"

func histogram(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help,
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
}

func counters(name, help, label string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
}

// observe is told by the log.
func (s *stats) observe(e consensus.Event, took time.Duration) {
	switch e {
	case consensus.Synced:
		s.sync.Observe(took.Seconds())
	case consensus.Verified:
		s.verify.Observe(took.Seconds())
	}
}

// view is what is looked up when metrics are asked for. What cannot be known is left out.
type view struct{ n *Node }

// viewTime bounds the looking up; a busy engine does not answer.
const viewTime = time.Second

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

var (
	upDesc      = gauge("engine_up", "Whether the engine answers: 1 or 0.")
	leadsDesc   = gauge("leads", "Whether this node leads and serves clients: 1 or 0.")
	leaderDesc  = gauge("leader_known", "Whether this node knows a leader: 1 or 0.")
	termDesc    = gauge("term", "The log's term; each election begins one.")
	epochDesc   = gauge("epoch", "The epoch; each promoted engine begins one.")
	offsetDesc  = gauge("offset_bytes", "Offsets in the engines' stream: of this node's engine, of what was given to the log (by a leader), of what is committed, of the last whole command in it.", "of")
	indexDesc   = gauge("log_index", "Entries of the log: the last one, committed, applied.", "of")
	lagDesc     = gauge("follower_lag_entries", "Entries that a follower is not known to have on its disk; only the leader tells.", "peer")
	activeDesc  = gauge("follower_active", "Whether a follower has answered lately; only the leader tells.", "peer")
	votersDesc  = gauge("voters", "Members that count for a majority.")
	roundsDesc  = gauge("rounds_in_flight", "Groups of replies that wait until they are committed and leadership is verified.")
	heldDesc    = gauge("held_bytes", "Bytes of replies that are held.")
	clientsDesc = gauge("clients", "Clients that this node serves itself.")
	tunnelsDesc = gauge("tunnels", "Clients that this node passes on to the leader.")
	fullDesc    = prometheus.NewDesc(prefix+"clients_refused_total", "Clients for whom there was no place.", nil, nil)
	freeDesc    = gauge("disk_free_bytes", "Room on the node's disk, beside the reserve.")
	reserveDesc = gauge("disk_reserve_bytes", "Room that is kept for the log; 0 when it was given up.")
	lowDesc     = gauge("disk_low", "Whether the disk has too little room for what clients write: 1 or 0.")
	refusesDesc = gauge("writes_refused", "Whether this node leads and refuses clients' writes for want of room: 1 or 0.")
	stillDesc   = gauge("log_stands_seconds", "Since when the log has not gone on: since the last turn of its loop, ages of the oldest entries that the disk, or the node itself, has not taken.", "what")
	logDesc     = gauge("log_bytes", "Size of the log's files.")
	copyDesc    = gauge("snapshot_bytes", "Size of the newest snapshot.")
	ageDesc     = gauge("snapshot_age_seconds", "Age of the newest snapshot.")
	clockDesc   = gauge("clock_ahead_seconds", "How far another node's clock is ahead of this node's; half the time that asking took may be added or taken off.", "peer")
	answersDesc = gauge("peer_answers", "Whether another node answers this one: 1 or 0.", "peer")
)

func (v *view) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, leadsDesc, leaderDesc, termDesc, epochDesc, offsetDesc, indexDesc, lagDesc, activeDesc,
		votersDesc, roundsDesc, heldDesc, clientsDesc, tunnelsDesc, fullDesc, freeDesc, reserveDesc, lowDesc, refusesDesc, stillDesc, logDesc,
		copyDesc, ageDesc, clockDesc, answersDesc} {
		out <- d
	}
}

func (v *view) Collect(out chan<- prometheus.Metric) {
	add := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	p := v.n.cons.Pulse()
	for what, age := range map[string]time.Duration{"turn": p.Turn, "sync": p.Unsync, "apply": p.Apply} {
		add(stillDesc, age.Seconds(), what)
	}
	if p.Turn > tooStill || p.Apply > tooStill { // what else there is to tell may never come
		return
	}
	ctx, cancel := context.WithTimeout(v.n.ctx, viewTime)
	defer cancel()
	s := v.n.Status(ctx)
	is := map[bool]float64{true: 1}
	add(upDesc, is[s.Engine.Error == ""])
	add(leadsDesc, is[s.Leads])
	add(leaderDesc, is[s.Leader != ""])
	add(termDesc, float64(s.Term))
	add(epochDesc, float64(s.Epoch))
	if s.Engine.Error == "" {
		add(offsetDesc, float64(s.Engine.Offset), "engine")
	}
	if s.Leads {
		add(offsetDesc, float64(s.Proposed), "proposed")
	}
	add(offsetDesc, float64(s.Offset), "committed")
	add(offsetDesc, float64(s.Safe), "safe")
	for of, index := range map[string]uint64{"last": s.Log.Last, "commit": s.Log.Commit, "applied": s.Log.Applied} {
		add(indexDesc, float64(index), of)
	}
	add(roundsDesc, float64(s.Rounds))
	add(heldDesc, float64(s.Held))
	add(clientsDesc, float64(s.Clients))
	add(tunnelsDesc, float64(s.Tunnels))
	out <- prometheus.MustNewConstMetric(fullDesc, prometheus.CounterValue, float64(s.Refused))
	if s.Disk.Free >= 0 {
		add(freeDesc, float64(s.Disk.Free))
	}
	add(reserveDesc, float64(s.Disk.Reserve))
	add(lowDesc, is[s.Disk.Low])
	add(refusesDesc, is[s.Disk.Refuses])
	add(logDesc, float64(s.Disk.Log))
	add(copyDesc, float64(s.Disk.Snapshot))
	add(ageDesc, s.Disk.SnapshotAge)
	collectPeers(s, add)
}

func collectPeers(s Status, add func(*prometheus.Desc, float64, ...string)) {
	is, voters := map[bool]float64{true: 1}, 0
	for _, m := range s.Nodes {
		if m.Voter {
			voters++
		}
		if m.Self {
			continue
		}
		add(answersDesc, is[m.Answers], m.Name)
		if m.Answers {
			add(clockDesc, m.ClockDiff, m.Name)
		}
		if s.Leads {
			add(lagDesc, float64(s.Log.Last-min(m.Match, s.Log.Last)), m.Name)
			add(activeDesc, is[m.Active], m.Name)
		}
	}
	add(votersDesc, float64(voters))
}
