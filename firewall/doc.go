// Package firewall finds rules of others that drop what the mesh needs.
//
// In: the rules of nftables of this host, and the packets that the mesh sends
// ([Flow]). Out: which base chain of whose table drops which of them, and what
// to add to it ([Finding]). It changes nothing.
//
// In nftables a drop in any base chain is final, so no rule of ours lets these
// packets pass. What is told is certain: a packet is led through the rules as the
// kernel would lead it, and where a rule asks for something that is not known of
// the packet (its mark, the time, how many there were), the rule may accept it,
// and nothing is told. So a firewall that drops by such a rule is not found;
// neither are drops of bridges and devices (families bridge and netdev).
//
// [Find] is about all that the mesh needs, in input and forward; [Dropped] about the
// packets of single connections, in every hook.
//
// Rules of iptables are no matter: the data planes' own stand in front of them.
package firewall
