// Command holdfast keeps state right under contention: a server for sales, locks and limits, nodes that
// lose nothing, what they need to run and to be tried, and the drill that judges them from outside.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/holdfast-dev/holdfast/internal/mutant"
)

type cli struct {
	Log struct {
		Format string `help:"Log as text or json." enum:"text,json" default:"text" env:"HOLDFAST_LOG_FORMAT"`
		Level  string `help:"Log from this level on: debug, info, warn, error." enum:"debug,info,warn,error" default:"info" env:"HOLDFAST_LOG_LEVEL"`
	} `embed:"" prefix:"log-"`

	Up       upCmd       `cmd:"" help:"Run everything embedded on this machine, with a demo sale and a page to watch it."`
	Serve    serveCmd    `cmd:"" help:"Run a server on your store and your database."`
	Node     nodeCmd     `cmd:"" help:"Run a node of a cluster that loses nothing: an unmodified Valkey or Redis, and what keeps its writes."`
	Migrate  migrateCmd  `cmd:"" help:"Bring a database to this version's schema. (serve does it too.)"`
	Config   configCmd   `cmd:"" help:"Look at a configuration."`
	Key      keyCmd      `cmd:"" help:"Make API keys."`
	Backup   backupCmd   `cmd:"" help:"Have a running server make a backup."`
	Restore  restoreCmd  `cmd:"" help:"Put a backup in a place where nothing is yet."`
	Lock     lockCmd     `cmd:"" help:"Run a command under a lock; see locks and break them."`
	Limit    limitCmd    `cmd:"" help:"Try rules of limits on a recorded log."`
	Provider providerCmd `cmd:"" help:"Run the simulated payment provider. No money moves."`
	Drill    drillCmd    `cmd:"" help:"Storms with faults, judged from outside: a sale, restarts, backups, failovers."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	code := 0
	var own *exit
	switch {
	case errors.As(err, &own):
		code, err = own.code, own.err
	case err != nil:
		code = 1
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "holdfast:", err)
	}
	os.Exit(code)
}

// exit is an error with an exit status of its own, and perhaps nothing to say.
type exit struct {
	code int
	err  error
}

func (x *exit) Error() string { return fmt.Sprintf("exit status %d: %v", x.code, x.err) }
func (x *exit) Unwrap() error { return x.err }

// env is what commands get beside their flags.
type env struct {
	ctx    context.Context
	out    io.Writer
	errs   io.Writer
	logger *slog.Logger
}

func run(args []string, out, errs io.Writer) error {
	var c cli
	parser, err := kong.New(&c, kong.Name("holdfast"), kong.UsageOnError(), kong.Writers(out, errs),
		kong.Description("State that holds under contention: sales, locks and limits over HTTP, and nodes of a Valkey or Redis that lose nothing. Start with `holdfast up`."))
	if err != nil {
		return err
	}
	if len(args) == 0 || len(args) == 1 && args[0] == "help" {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w (see holdfast --help)", err)
	}
	logger, err := newLogger(errs, c.Log.Format, c.Log.Level)
	if err != nil {
		return err
	}
	if on := mutant.Active(); len(on) > 0 {
		logger.Warn("this build has protections switched off, to show that the drill notices", "mutants", on)
	}
	// The first signal ends the work in order; the second one ends the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return parsed.Run(&env{ctx: ctx, out: out, errs: errs, logger: logger})
}

func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: l}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}
