package main

import (
	"time"

	"github.com/holdfast-dev/holdfast/drill"
	drillcaller "github.com/holdfast-dev/holdfast/drill/caller"
)

type drillLimitCmd struct {
	Store   string   `help:"What the limits are in; the drill starts it for itself: file: (behind one server, over HTTP), redis-server (or with ?class=b), valkey-server, or nodes (three of them)." default:"file:" env:"HOLDFAST_DRILL_LIMIT_STORE"`
	Rounds  int      `help:"How many rounds, 1..10000: each has new processes, a fault of theirs and one of the store's." default:"6"`
	Callers int      `help:"How many processes ask, 2..32." default:"6"`
	Fault   []string `help:"Some faults of the store, with commas: none, kill-engine, pause-engine, black-hole, slow, isolate-leader; otherwise all that can happen here are in the deck."`
	Seed    uint64   `help:"Deals the same faults, moments and wishes as the run that printed it; 0: new ones."`
	JSON    bool     `name:"json" help:"The last line is the report as JSON."`
	Binary  string   `hidden:"" type:"path" help:"The program to judge; default: this one."`
}

func (c *drillLimitCmd) Run(e *env) error {
	report, err := drill.Limit(e.ctx, drill.LimitOptions{
		Store: c.Store, Rounds: c.Rounds, Callers: c.Callers, Faults: c.Fault, Seed: c.Seed, Binary: c.Binary, Progress: drillProgress(c.JSON),
	})
	return verdict(e.out, report, err, c.JSON)
}

type drillCallerCmd struct {
	Store     string        `help:"Store that the limits are in."`
	API       string        `name:"api" help:"Server that decides."`
	Rules     string        `required:"" type:"path"`
	Journal   string        `required:"" type:"path"`
	Seed      uint64        `required:""`
	Who       int           `required:""`
	Processes int           `required:""`
	Key       string        `required:""`
	Gap       time.Duration `required:""`
	Timeout   time.Duration `required:""`
	Look      []string      `help:"Say what is left of rule=key, with commas, and end."`
}

func (c *drillCallerCmd) Run(e *env) error {
	o := drillcaller.Options{Store: c.Store, API: c.API, Rules: c.Rules, Log: c.Journal, Seed: c.Seed, Who: c.Who, Processes: c.Processes, Key: c.Key, Gap: c.Gap, Timeout: c.Timeout}
	if len(c.Look) == 0 {
		return drillcaller.Run(e.ctx, o)
	}
	of, err := drillcaller.Wants(c.Look)
	if err != nil {
		return err
	}
	return drillcaller.Look(e.ctx, o, of)
}
