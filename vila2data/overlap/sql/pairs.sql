-- One row of `theirs` stands for all with the same image (and question, or text), so that images that thousands of rows share
-- make no more pairs than there are rows.
CREATE TEMP TABLE links AS
    SELECT sha256 AS left_sha256, sha256 AS right_sha256, 0 AS distance, 1.0 AS score, 'image' AS kind
    FROM (SELECT DISTINCT sha256 FROM ours WHERE sha256 IS NOT NULL)
    SEMI JOIN theirs USING (sha256)
    UNION ALL
    SELECT *, 'near_image' FROM near_links WHERE left_sha256 <> right_sha256;

CREATE TEMP TABLE first_with_image AS
    SELECT sha256, min(place) AS place FROM theirs WHERE sha256 IN (SELECT right_sha256 FROM links) GROUP BY sha256;
CREATE TEMP TABLE first_with_question AS
    SELECT sha256, key, min(theirs.place) AS place
    FROM theirs JOIN their_questions USING (id)
    WHERE sha256 IN (SELECT right_sha256 FROM links) GROUP BY ALL;
CREATE TEMP TABLE first_with_text AS
    SELECT key, min(place) AS place FROM their_texts WHERE key & 255 >= getvariable('min_words') GROUP BY key;

CREATE TEMP TABLE matches AS
    SELECT ours.place AS mine, first.place AS other, kind, distance, score, false AS same_question
    FROM ours JOIN links ON sha256 = left_sha256 JOIN first_with_image first ON first.sha256 = right_sha256
    UNION ALL
    SELECT ours.place, first.place, kind, distance, score, true
    FROM ours JOIN links ON sha256 = left_sha256 JOIN our_questions USING (id)
    JOIN first_with_question first ON first.sha256 = right_sha256 AND first.key = our_questions.key
    UNION ALL
    SELECT our_texts.place, first.place, 'text', NULL, 1.0, true
    FROM our_texts JOIN first_with_text first USING (key) WHERE getvariable('text');

CREATE TEMP TABLE best AS
    SELECT matches.* FROM matches
    JOIN ours ON ours.place = mine JOIN theirs ON theirs.place = other
    WHERE NOT getvariable('within') OR (other < mine AND ours.id <> theirs.id)
    QUALIFY row_number() OVER (
        PARTITION BY CASE kind WHEN 'text' THEN ours.id END, mine, kind
        ORDER BY same_question DESC, distance, score DESC, other
    ) = 1;

CREATE TEMP TABLE pairs AS
    WITH shared AS (
        SELECT DISTINCT mine, other FROM best
        JOIN ours ON ours.place = mine JOIN theirs ON theirs.place = other
        JOIN our_texts ON our_texts.id = ours.id
        JOIN their_texts ON their_texts.id = theirs.id AND their_texts.key = our_texts.key
    )
    SELECT ours.id AS left_id, ours.source AS left_source,
        CASE WHEN kind <> 'text' THEN ours.image END AS left_image,
        theirs.id AS right_id, theirs.source AS right_source,
        CASE WHEN kind <> 'text' THEN theirs.image END AS right_image,
        kind, distance, score, same_question, shared.mine IS NOT NULL AS same_text
    FROM best
    JOIN ours ON ours.place = best.mine JOIN theirs ON theirs.place = best.other
    LEFT JOIN shared ON shared.mine = best.mine AND shared.other = best.other
    ORDER BY best.mine, kind;
