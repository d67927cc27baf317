-- Distinct images that have a hash, and distinct keys of rows, of `ours` and `theirs`; each with the place of its first use.
CREATE MACRO images_of(t) AS TABLE
    SELECT sha256, arg_min(id, place) AS id, arg_min(image, place) AS image, arg_min(phash, place) AS phash,
        coalesce(arg_min(views, place), []) AS views, min(place) AS place
    FROM query_table(t) WHERE sha256 IS NOT NULL AND phash IS NOT NULL GROUP BY sha256;
CREATE TEMP TABLE our_images AS FROM images_of('ours');
CREATE TEMP TABLE their_images AS FROM images_of('theirs');

CREATE TEMP TABLE our_questions AS
    SELECT id, key, min(place) AS place FROM (SELECT id, place, unnest(question_keys) AS key FROM ours) GROUP BY ALL;
CREATE TEMP TABLE their_questions AS
    SELECT id, key, min(place) AS place FROM (SELECT id, place, unnest(question_keys) AS key FROM theirs) GROUP BY ALL;
CREATE TEMP TABLE our_texts AS
    SELECT id, key, min(place) AS place FROM (SELECT id, place, unnest(text_keys) AS key FROM ours) GROUP BY ALL;
CREATE TEMP TABLE their_texts AS
    SELECT id, key, min(place) AS place FROM (SELECT id, place, unnest(text_keys) AS key FROM theirs) GROUP BY ALL;
