package main

import (
	"net"
	"time"

	"github.com/holdfast-dev/holdfast/drill"
	drillholder "github.com/holdfast-dev/holdfast/drill/holder"
)

type drillLockCmd struct {
	Store   string   `help:"What the locks are in; the drill starts it for itself: file: (behind one server, over HTTP), redis-server (or with ?class=b, or with ?replica that lags and takes over), valkey-server (or with ?replica), or nodes (three of them)." default:"file:" env:"HOLDFAST_DRILL_LOCK_STORE"`
	Rounds  int      `help:"How many rounds, 1..10000: each has new processes, a fault of theirs and one of the store's." default:"6"`
	Holders int      `help:"How many processes lease and write, 4..64." default:"12"`
	Fault   []string `help:"Some faults of the store, with commas: none, kill-engine, pause-engine, partition, clock-jump, failover, isolate-leader; otherwise all that can happen here are in the deck."`
	Seed    uint64   `help:"Deals the same faults, moments and wishes as the run that printed it; 0: new ones."`
	JSON    bool     `name:"json" help:"The last line is the report as JSON."`
	Binary  string   `hidden:"" type:"path" help:"The program to judge; default: this one."`
}

func (c *drillLockCmd) Run(e *env) error {
	report, err := drill.Lock(e.ctx, drill.LockOptions{
		Store: c.Store, Rounds: c.Rounds, Holders: c.Holders, Faults: c.Fault, Seed: c.Seed, Binary: c.Binary, Progress: drillProgress(c.JSON),
	})
	return verdict(e.out, report, err, c.JSON)
}

type drillHolderCmd struct {
	Store    string        `help:"Store that the locks are in."`
	API      string        `name:"api" help:"Server that leases them."`
	Resource string        `required:"" help:"Where what they guard is."`
	Names    []string      `required:""`
	Shared   string        `help:"A name that is wanted alone or shared."`
	Pool     string        `help:"A name of which permits are wanted."`
	TTL      time.Duration `name:"ttl" required:""`
	Journal  string        `required:"" type:"path"`
	Seed     uint64        `required:""`
	Who      int           `required:""`
}

func (c *drillHolderCmd) Run(e *env) error {
	return drillholder.Run(e.ctx, drillholder.Options{
		Store: c.Store, API: c.API, Resource: c.Resource, Names: c.Names, Shared: c.Shared, Pool: c.Pool, TTL: c.TTL, Log: c.Journal, Seed: c.Seed, Who: c.Who,
	})
}

type drillGuardedCmd struct {
	DB        string `name:"db" required:""`
	Dir       string `required:"" type:"path"`
	ReadyFile string `required:"" type:"path"`
}

func (c *drillGuardedCmd) Run(e *env) error {
	return drillholder.Serve(e.ctx, drillholder.GuardedOptions{DB: c.DB, Dir: c.Dir, Ready: func(l net.Listener) error { return announce(c.ReadyFile, l) }})
}
