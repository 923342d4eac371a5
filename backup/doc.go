// Package backup is the format of a backup of the cluster's store, and its
// encryption.
//
// In: named files, one of which, the snapshot of etcd, is as long as it likes.
// Out: one stream, a tar archive, which [Seal] encrypts with a passphrase by age
// (https://age-encryption.org/v1, scrypt). [Read] takes it apart again, and refuses
// one that broke off. Whoever reads a backup that is not encrypted can be a host of
// the cluster: the key of its CA is in it.
package backup
