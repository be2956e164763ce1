// Package proto holds the shop's contract; gen/ is made from it.
package proto

//go:generate buf generate --template ../buf.gen.yaml --output .. .
