-- What is learned of how long operations take, by class (SPEC 3.3): the fold of the log up to the position of the
-- reader `deadlines`, written in the transaction that moves it on.
create table learned (
    class   text primary key,
    -- The parts of the class as a document, and what is known of it.
    key     text not null,
    body    text not null,
    version integer not null
) strict;
