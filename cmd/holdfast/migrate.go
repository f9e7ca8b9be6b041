package main

import (
	"errors"
	"fmt"

	"github.com/holdfast-dev/holdfast/flashsale"
	"github.com/holdfast-dev/holdfast/sqldb"
)

type migrateCmd struct {
	DB string `name:"db" help:"Database: postgres://… or sqlite:FILE." required:"" env:"HOLDFAST_DB"`
}

func (c *migrateCmd) Run(e *env) (err error) {
	db, err := sqldb.Open(e.ctx, c.DB, sqldb.Options{Logger: e.logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.Migrate(e.ctx, flashsale.Schema()...); err != nil {
		return err
	}
	fmt.Fprintln(e.out, "the schema is up to date")
	return nil
}
